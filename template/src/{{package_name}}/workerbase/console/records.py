"""Reads what the workers leave for the console: see `history`, which writes it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from arq.connections import ArqRedis

from ..broker import codec, keys
from .history import FLUSH_S, KEPT_S, SPAN_S
from .pipeline import pipelined

FRESH_S = 3 * FLUSH_S
"""A worker that has written nothing for this long is silent: stuck, cut off, or dead."""
SLOW = 2
"""A worker whose mean duration is more than this multiple of the median is slow."""
DONE = ("handled", "retried", "dead_lettered", "failed", "parked", "held", "aborted")


@dataclass(frozen=True, slots=True)
class Point:
    """One span of time."""

    at: float
    """Unix time at which the span began, in seconds."""
    known: bool
    """Whether a worker wrote anything in it."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def handled(self) -> float:
        """Messages and jobs that succeeded, a minute."""
        return self.counts.get("handled", 0) * 60 / SPAN_S

    @property
    def failed(self) -> float:
        """Attempts that failed, a minute."""
        names = ("retried", "dead_lettered", "failed")
        return sum(self.counts.get(name, 0) for name in names) * 60 / SPAN_S

    @property
    def mean_s(self) -> float | None:
        """Mean duration of a run, in seconds."""
        runs = sum(self.counts.get(name, 0) for name in DONE)
        return self.counts.get("ms", 0) / 1000 / runs if runs else None

    def value(self, name: str) -> int | None:
        """Return what was sampled in it; None if nothing was."""
        return self.counts.get(name)


@dataclass(frozen=True, slots=True)
class Running:
    """An item that a worker has in work."""

    kind: str
    name: str
    id: str
    attempt: int
    since: float
    """Unix time, in seconds."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as it describes itself."""

    name: str
    at: float
    """Unix time of the description, in seconds; so is ``started``."""
    started: float
    in_work: int
    running: tuple[Running, ...]
    """The oldest items in work."""
    outcomes: Mapping[str, int]
    """Counts since it started."""
    recent: int
    """Attempts that ended in the last minute."""
    mean_s: float | None
    """Mean duration of these, in seconds."""
    breaker_open: bool

    def is_silent(self, now: float) -> bool:
        """Whether it has stopped to write without taking its leave."""
        return now - self.at > FRESH_S


async def read_workers(redis: ArqRedis, queue: str) -> tuple[WorkerRecord, ...]:
    """Return the workers of a queue that described themselves, by name."""
    (found,) = await pipelined(redis, [("HGETALL", keys.workers(queue))])
    records = [_record(codec.decode(name), json.loads(text)) for name, text in found.items()]
    return tuple(sorted(records, key=lambda record: record.name))


def slow_workers(alive: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    """Return the workers whose runs take more than twice as long as those of most others."""
    means = sorted(worker.mean_s for worker in alive if worker.mean_s is not None)
    limit = SLOW * means[(len(means) - 1) // 2] if len(means) > 1 else float("inf")
    return [worker for worker in alive if (worker.mean_s or 0) > limit]


def _record(name: str, found: dict[str, Any]) -> WorkerRecord:
    recent = int(found["recent"])
    return WorkerRecord(
        name=name,
        at=float(found["at"]),
        started=float(found["started"]),
        in_work=int(found["in_work"]),
        running=tuple(Running(**item) for item in found["running"]),
        outcomes=cast("dict[str, int]", found["outcomes"]),
        recent=recent,
        mean_s=float(found["recent_seconds"]) / recent if recent else None,
        breaker_open=bool(found["breaker_open"]),
    )


async def read_points(
    redis: ArqRedis, queue: str, before: Sequence[Point] = ()
) -> tuple[Point, ...]:
    """Return the history, oldest first, without the span that has just begun.

    Args:
        redis: an open client.
        queue: the queue of the workers.
        before: the history as it was read last; only what can have changed is read again.
    """
    now = int(time.time()) // SPAN_S * SPAN_S
    starts = range(now - KEPT_S + SPAN_S, now, SPAN_S)
    # A worker that was cut off adds to the span in which it can write again.
    known = {point.at: point for point in before[:-2]}
    missing = [start for start in starts if start not in known]
    replies = await pipelined(redis, [("HGETALL", keys.history(queue, s)) for s in missing])
    for start, reply in zip(missing, replies, strict=True):
        counts = {codec.decode(name): int(value) for name, value in reply.items()}
        known[start] = Point(start, bool(counts), counts)
    return tuple(known[start] for start in starts)
