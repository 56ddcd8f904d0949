"""One sample of Redis for all browsers: taken when somebody looks, at most every two seconds."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from arq.connections import ArqRedis

from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine.sources import SourceStatus
from ..process.service import ResolvedSettings
from .history import SPAN_S
from .overview import Overview, overview
from .pipeline import pipelined
from .records import Point, WorkerRecord, read_points, read_workers

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
TIMEOUT_S = 10.0
"""How long Redis may take to answer."""
RATE_SAMPLES = 6
"""Number of samples over which rates are taken; a single one would jump."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Entries of a stream a second; None if they are not known."""

    added: float | None = None
    settled: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What all pages show of one moment."""

    number: int
    overview: Overview
    workers: tuple[WorkerRecord, ...]
    """Workers that describe themselves."""
    points: tuple[Point, ...]
    rates: dict[str, Rate]
    """By source."""
    memory_used: int
    """In bytes; so is ``memory_limit``, which is 0 where there is none."""
    memory_limit: int

    @property
    def alive(self) -> list[WorkerRecord]:
        """Workers that describe themselves and are not silent."""
        return [worker for worker in self.workers if not worker.is_silent(self.at)]

    @property
    def silent(self) -> list[WorkerRecord]:
        """Workers that have stopped to write without taking their leave, the last first."""
        found = [worker for worker in self.workers if worker.is_silent(self.at)]
        return sorted(found, key=lambda worker: -worker.at)

    @property
    def at(self) -> float:
        """Unix time, in seconds."""
        return self.overview.at


class Sampler:
    """Takes samples and hands each to all who follow.

    Args:
        connect: returns the client.
        settings: of the worker.
        interval: minimum age of a sample before another one is taken, in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], ArqRedis],
        settings: ResolvedSettings,
        interval: float = INTERVAL_S,
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._interval = interval
        self._lock = asyncio.Lock()
        self._history: deque[Overview] = deque(maxlen=RATE_SAMPLES)
        self._last: Sample | None = None
        self._points_at = 0
        self._next: asyncio.Future[Sample | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.followers = 0

    async def current(self) -> Sample:
        """Return a sample that is not older than the interval.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
            TimeoutError: it takes too long.
        """
        async with self._lock:
            last = self._last
            if last is None or time.time() - last.at >= self._interval:
                async with asyncio.timeout(TIMEOUT_S):
                    self._last = last = await self._take(last)
            return last

    async def _take(self, last: Sample | None) -> Sample:
        redis, queue = self._connect(), self._settings.config.queue_name
        found = await overview(redis, self._settings, before=last.overview if last else None)
        workers = await read_workers(redis, queue)
        (memory,) = await pipelined(redis, [("INFO", "memory")])
        points, span = (last.points if last else ()), int(time.time()) // SPAN_S
        if span != self._points_at:
            points, self._points_at = await read_points(redis, queue, points), span
        self._history.append(found)
        return Sample(
            number=last.number + 1 if last else 1,
            overview=found,
            workers=workers,
            points=points,
            rates=rates(self._history),
            memory_used=int(memory["used_memory"]),
            memory_limit=int(memory.get("maxmemory", 0)),
        )

    async def follow(self) -> AsyncGenerator[Sample | None]:
        """Yield each new sample, None while Redis does not answer; one task feeds all followers."""
        self.followers += 1
        if self._task is None or self._task.done():
            self._next = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name="console: sampler")
        try:
            while self._next is not None:
                yield await asyncio.shield(self._next)
        finally:
            self.followers -= 1
            if not self.followers:
                self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.followers:
            sample: Sample | None = None
            with contextlib.suppress(*OUTAGE_ERRORS):
                sample = await self.current()
            waiting, self._next = self._next, loop.create_future()
            if waiting is not None and not waiting.done():
                waiting.set_result(sample)
            await asyncio.sleep(self._interval)


def rates(samples: Sequence[Overview]) -> dict[str, Rate]:
    """Return how fast the counts of each source grow over the newest `RATE_SAMPLES` samples."""
    series: dict[str, list[tuple[float, SourceStatus]]] = {}
    for sample in list(samples)[-RATE_SAMPLES:]:
        for source in sample.status.sources:
            series.setdefault(source.name, []).append((sample.at, source))
    return {
        name: Rate(
            _rate([(at, source.added) for at, source in found]),
            _rate([(at, source.settled) for at, source in found]),
        )
        for name, found in series.items()
    }


def _rate(counts: Sequence[tuple[float, int | None]]) -> float | None:
    """Return how much a count grows in a second, as far as that is known."""
    known = [(at, count) for at, count in counts if count is not None]
    if len(known) < 2 or known[-1][1] < known[0][1]:  # noqa: PLR2004 - a rate is between two
        return None
    (began, before), (ended, now) = known[0], known[-1]
    return (now - before) / max(ended - began, 0.001)
