"""Jobs whose every right answer is known beforehand, and whose every item is told from those of all other jobs."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.scheduler.fake_worker import label

from zoofleet import Classification, Item, Result

MODELS: Final = ("resnet50@random", "mobilenet_v3_large@random")
TENANTS: Final = ("red", "blue")

ITEM_ID: Final = re.compile(r"(j\d+x\d+)\.\d+")
"""Ids of items, which stand in their data, too; the first part is the plan's name."""

_PAD: Final = 400 * 1024
"""With a dozen items of so many bytes, the scheduler stores an upload's beginning before it has the end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job to be.

    Attributes:
        name: unique in the run.
        tenant: whose.
        models: one for each task.
        items: data by item id.
        request_id: a UUID.
    """

    name: str
    tenant: str
    models: tuple[str, ...]
    items: Mapping[str, bytes]
    request_id: str

    def sources(self) -> list[Item]:
        """The items as the client takes them."""
        return [Item(data, item_id) for item_id, data in self.items.items()]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a result says.

    Attributes:
        item_id: the item's id.
        model: the model.
        label: None where it is an error.
        error: the error's class, empty where it is none.
    """

    item_id: str
    model: str
    label: int | None
    error: str = ""


def answer_of(result: Result) -> Answer:
    """The answer that a result gives."""
    if isinstance(result.outcome, Classification):
        return Answer(result.item_id, result.model, int(result.outcome.labels[0]))
    return Answer(result.item_id, result.model, None, type(result.outcome).__name__)


def word_of(data: bytes) -> str:
    """What an item does: the first word of its data."""
    return data[:40].split()[0].decode()


def right_answer(item_id: str, data: bytes, model: str) -> Answer:
    """The answer that an item must get in a job that is not cancelled."""
    error = {"bad": "InvalidMediaError", "poison": "PoisonItemError"}.get(word_of(data), "")
    return Answer(item_id, model, None if error else label(data), error)


def make_plan(name: str, rng: random.Random, kind: str = "mixed") -> Plan:
    """A plan.

    Args:
        name: unique in the run, `j{number}x{number}`.
        rng: chooses the items.
        kind: `mixed`; `poison`, one item of which kills its worker; `padded`, whose items are large.
    """
    count = {"poison": rng.randint(4, 14), "padded": rng.randint(14, 24)}.get(kind, rng.choice([1, 5, 16, 30, 60]))
    words = [_word(rng, kind) for _ in range(count)]
    if kind == "poison":
        words[rng.randrange(count)] = "poison"
    pad = bytes(_PAD) if kind == "padded" else b""
    items = {f"{name}.{index}": f"{word} {name}.{index} ".encode() + pad for index, word in enumerate(words)}
    models = MODELS if rng.random() < 0.3 else (rng.choice(MODELS),)
    return Plan(name, rng.choice(TENANTS), models, items, str(uuid.UUID(int=rng.getrandbits(128))))


def _word(rng: random.Random, kind: str) -> str:
    draw = rng.random()
    if kind == "poison":  # innocent neighbours that take long enough to be hit by what the poison does
        return f"sleep {rng.uniform(0.1, 1.0):.2f}"
    if draw < 0.03:
        return f"sleep {rng.uniform(1.0, 3.0):.2f}"
    if draw < 0.06:
        return "bad"
    if draw < 0.07:
        return "large"
    return f"sleep {rng.uniform(0.002, 0.05):.3f}" if draw < 0.6 else "image"
