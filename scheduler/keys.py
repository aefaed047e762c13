"""Every Redis key: its type, what it holds, and when it ends.

All keys carry the hash tag `{zoofleet}` and so stand in one slot of a Redis Cluster; scripts take it as `KEYS[1]` and
make the names below from it. The Lua scripts in `lua/` write them.

    key                 type    what                                                    ends

    job:{j}             hash    spec (serialized Job), tenant, priority, ttl, state,    at expire_time (by sweep),
                                items, tasks, results, committed, errors, error         DeleteJob
                                (serialized Status), bytes, result_bytes, score,
                                create, start, end, expire, request, model:{t},
                                task:{t}, left:{t} (results of the task to come)
    job:{j}:items       hash    item index -> serialized Item without its id            job finished, upload expired
    job:{j}:ids         list    item ids by index                                       with job:{j}, upload expired
    job:{j}:seen        set     item ids, while the upload lasts                        published, upload expired
    job:{j}:done        string  bitmap, bit index x tasks + task: has its result        with job:{j}, upload expired
    job:{j}:results     stream  {n}-0 -> r (serialized Result), or s (serialized        with job:{j}, upload expired
                                google.rpc.Status) and p (task:index)
    job:{j}:entries     set     the job's entries: lane, model and entry                job finished
    job:{j}:leases      set     tokens of the job's leases                              job finished
    job:{j}:attempts    hash    task:index -> attempts counted against the item         job finished
    request:{r}         hash    job, digest: of the job made with this request_id       with job:{j}

    jobs                zset    all jobs by sequence number                             member with its job
    tenant:{t}:jobs     zset    the same of one tenant                                  member with its job
    tenant:{t}:active   set     unfinished jobs of one tenant                           member when its job finishes
    endings             zset    job:tenant:result_bytes:request by expire_time          member with its job
    uploads             zset    jobs being uploaded by the time at which they expire    member when published, expired
    uploads:bytes       hash    job being uploaded -> tenant:bytes:result_bytes         member when published, expired
    bytes               hash    tenant -> bytes of its items and results; * -> of all   member when 0; * never
    sequence            string  number of the last job                                  never, one number
    token               string  last fencing token                                      never, one number

    lane:{t}:{model}    zset    entries job:task:start:count of a tenant, or of the     empty
                                quarantine (~), by priority, then sequence
    heads:{t}           zset    models of a tenant's lanes by the score of their head   empty
    models              set     models that have lanes, the quarantine's left out       empty
    waiting:{model}     zset    tenants that have a lane of the model by their turn     empty
    turns               hash    tenant that has lanes -> its turn                       member with its lanes
    rested              zset    tenants without lanes whose turn is still to come       passed by `virtual`
    virtual             string  turn of the tenant that was served last                 nobody has a turn
    skips               hash    job:task -> how often a loaded model went before it     entry taken, job finished

    leases              zset    tokens by expiry                                        member when committed,
                                                                                        released, reaped, cancelled
    lease:{token}       hash    job, task, start, count, worker, instance, sent         the same
    held:{w}            hash    tokens of a worker's leases -> items without a result   member with its lease
    alone:{w}           string  token of the item that runs alone on the worker         with its lease
    reserved            string  the worker that runs what must run alone                PX, unless it claims again
    blame:{instance}    hash    job:task:index -> 1: attempts counted since that        proven alive, PX 10 min
                                process seems to have died; time of the last one
    verdicts            zset    job:task:index:instance by time: items that have had    member when due, proven alive
                                all attempts, if that process has really died
    departed:{instance} string  the process has left in good order                      PX 10 min
    refusals:{model}    hash    first, last, status, worker:{w}: who could not load it  loaded, PX
    dead_letters        list    job:task:index of items given up, newest first          trimmed to 10,000

    workers             set     ids of registered workers                               member with its worker
    worker:{w}          hash    instance, info (serialized Worker), status (serialized  PEXPIRE heartbeat_timeout,
                                WorkerStatus), drain, suspect, register, beat           unregistered

    events              channel "work"; "job {j}" changed; "cancel {j}"; "worker {w}" changed

What a sweep deletes by its index (endings, uploads) also has an expiry of its own an hour later, should there be no
scheduler to sweep.

An entry is a run of a job's items still to be leased: one for each of its tasks at first, from which claims cut chunks
off the front, and one for each chunk that came back. So a job of a million items costs as many steps to publish or
cancel as one of ten.

Lanes are by tenant and model, so that a claim looks at what its worker can run and at nothing else: neither the items
of a job, nor the jobs of a lane, nor the tenants, however many, are walked through.

Operators read the dead letters with `redis-cli LRANGE '{zoofleet}:dead_letters' 0 -1`; no call returns them.

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
JOBS: Final = f"{ROOT}:jobs"


def job(job_id: str) -> str:
    """Return the key of a job's hash."""
    return f"{ROOT}:job:{job_id}"


def ids(job_id: str) -> str:
    """Return the key of the list of a job's item ids."""
    return f"{job(job_id)}:ids"


def done(job_id: str) -> str:
    """Return the key of the bitmap of a job's results that are in."""
    return f"{job(job_id)}:done"


def request(request_id: str) -> str:
    """Return the key of the hash that names the job made with a request_id."""
    return f"{ROOT}:request:{request_id}"


def tenant_jobs(tenant: str) -> str:
    """Return the key of the sorted set of a tenant's jobs."""
    return f"{ROOT}:tenant:{tenant}:jobs"


def tenant_active(tenant: str) -> str:
    """Return the key of the set of a tenant's unfinished jobs."""
    return f"{ROOT}:tenant:{tenant}:active"


def worker(worker_id: str) -> str:
    """Return the key of a worker's hash."""
    return f"{ROOT}:worker:{worker_id}"


def refusals(model: str) -> str:
    """Return the key of the hash of the workers that could not load a model."""
    return f"{ROOT}:refusals:{model}"
