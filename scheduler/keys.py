"""Every Redis key, its type, who writes it, and when it ends.

All keys carry the hash tag `{zoofleet}` and so stand in one slot of a Redis Cluster; scripts take it as `KEYS[1]` and
make the names below from it. Written by the Lua scripts in `lua/` unless another owner is named.

    key                 type    what                                                    ends

    job:{j}             hash    spec (serialized Job), tenant, priority, ttl, state,    PEXPIREAT at expire_time,
                                items, tasks, results, committed, errors, bytes, score, DeleteJob
                                create, start, end, expire, request, model:{t}, task:{t}
    job:{j}:items       hash    item index -> serialized Item without its id            job finished, upload expired
    job:{j}:ids         list    item ids by index                                       with job:{j}, upload expired
    job:{j}:seen        set     item ids, while the upload lasts                        published, upload expired
    job:{j}:done        string  bitmap, bit index x tasks + task: has its result        with job:{j}, upload expired
    job:{j}:results     stream  {n}-0 -> r (serialized Result), or s (serialized        with job:{j}, upload expired
                                google.rpc.Status) and p (task:index)
    job:{j}:entries     set     the job's entries in lane:{tenant} or quarantine        job finished
    job:{j}:leases      set     tokens of the job's leases                              job finished
    request:{r}         hash    job, digest: of the job made with this request_id       with job:{j}

    jobs                zset    all jobs by sequence number                             member with its job
    tenant:{t}:jobs     zset    the same of one tenant                                  member with its job
    tenant:{t}:active   set     unfinished jobs of one tenant                           member when its job finishes
    endings             zset    job:tenant:request by expire_time                       member with its job
    uploads             zset    jobs being uploaded by the time at which they expire    member when published, expired
    uploads:bytes       hash    job being uploaded -> its bytes                         member when published, expired
    queued_bytes        string  bytes of all items and ids of unfinished jobs           never, one number
    sequence            string  number of the last job                                  never, one number
    token               string  last fencing token                                      never, one number

    lane:{tenant}       zset    entries job:task:start:count:attempts by priority, then empty
                                sequence
    quarantine          zset    entries that lost two workers, by sequence              empty
    tenants             list    tenants with a lane, in round-robin order               empty
    deficits            hash    tenant -> items it may take before the next one's turn  member with its lane
    skips               hash    tenant -> how often its lane's head was passed over     member with its lane
    leases              zset    tokens by expiry                                        member when committed,
                                                                                        released, reaped, cancelled
    lease:{token}       hash    job, task, start, count, attempts, worker               the same
    dead_letters        list    job:task:index of items given up, newest first          trimmed to 10,000

    workers             set     ids of registered workers                               member with its worker
    worker:{w}          hash    info (serialized Worker), status (serialized            PEXPIRE heartbeat_timeout,
                                WorkerStatus), drain, register, beat                    unregistered

    events              channel "work"; "job {j}" changed; "cancel {j}"; "worker {w}" changed

An entry is a run of a job's items still to be leased: one for each of its tasks at first, from which claims cut chunks
off the front, and one for each chunk that came back. So a job of a million items costs as many steps to publish or
cancel as one of ten.

Why not Redis Streams with consumer groups: a chunk needs a fencing token, a priority within its tenant, a turn
among tenants, and to be cut or split on the way; a consumer group's pending list knows none of these, and each would
need a second structure kept equal to it. Results do use a stream, for what it is good at: an ordered log that readers
resume by position.
"""

from __future__ import annotations

from typing import Final

ROOT: Final = "{zoofleet}"
"""The hash tag with which every key starts."""

EVENTS: Final = f"{ROOT}:events"
QUEUED_BYTES: Final = f"{ROOT}:queued_bytes"
QUARANTINE: Final = f"{ROOT}:quarantine"
JOBS: Final = f"{ROOT}:jobs"
DEAD_LETTERS: Final = f"{ROOT}:dead_letters"


def job(job_id: str) -> str:
    """Hash of a job."""
    return f"{ROOT}:job:{job_id}"


def ids(job_id: str) -> str:
    """List of a job's item ids."""
    return f"{job(job_id)}:ids"


def done(job_id: str) -> str:
    """Bitmap of a job's results that are in."""
    return f"{job(job_id)}:done"


def request(request_id: str) -> str:
    """Hash of the job made with a request_id."""
    return f"{ROOT}:request:{request_id}"


def tenant_jobs(tenant: str) -> str:
    """Sorted set of a tenant's jobs."""
    return f"{ROOT}:tenant:{tenant}:jobs"


def tenant_active(tenant: str) -> str:
    """Set of a tenant's unfinished jobs."""
    return f"{ROOT}:tenant:{tenant}:active"


def worker(worker_id: str) -> str:
    """Hash of a worker."""
    return f"{ROOT}:worker:{worker_id}"
