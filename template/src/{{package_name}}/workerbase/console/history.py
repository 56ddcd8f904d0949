"""What the workers leave in Redis for the console: a few hours of history, and who does what.

Each worker adds its counts to a hash for each span of time, which expires by itself, and
describes itself in a field of one hash. Of each span one worker, the first, samples the queues.
Beside that it learns what operators have paused (`pauses`).
"""

import asyncio
import json
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, cast

from arq.connections import ArqRedis

from ..broker import codec, keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..config import WorkerConfig
from ..engine.pauses import Pause
from ..engine.supervisor import cancel
from ..inspector.status import snapshot
from ..monitor import Monitor, Outcome, Work
from ..process.requeue import REQUEUE_TASK
from ..process.service import ResolvedSettings, Service, redis_of, worker_of
from ..types import Ctx, RedisArg, RedisClient
from .pauses import follow, read_pauses, refresh
from .pipeline import pipelined

logger = logging.getLogger(__name__)

SPAN_S = 30
"""Length of a span of time that is counted together."""
KEPT_S = 4 * 3600
"""How long a span is kept."""
FLUSH_S = 5.0
"""Interval at which a worker writes."""
STALE_S = 600.0
"""How long the description of a worker that does not write any more is kept."""
MAX_RUNNING = 20
"""Maximum number of items in work that a worker describes, the oldest."""
RECENT_FLUSHES = 12
"""Number of flushes over which a worker's recent work is counted: one minute."""


class History(Service):
    """Records what the worker does, for the console and ``status --watch``; heeds pauses."""

    name = "history"

    def monitors(self, config: WorkerConfig) -> Sequence[Monitor]:
        """Return the monitor that records."""
        del config
        return (Recorder(),)

    async def pauses(self, redis: RedisClient, config: WorkerConfig) -> Sequence[Pause]:
        """Report what is paused."""
        return await read_pauses(cast("ArqRedis", redis), config.queue_name)


class _Running(AbstractContextManager[None]):
    """One item in work."""

    __slots__ = ("_running", "started", "work")

    def __init__(self, running: dict[int, "_Running"], work: Work) -> None:
        self._running = running
        self.work = work
        self.started = 0.0

    def __enter__(self) -> None:
        self.started = time.time()
        self._running[id(self)] = self

    def __exit__(self, *_: object) -> None:
        self._running.pop(id(self), None)

    def as_dict(self) -> dict[str, object]:
        """Describe it; nothing of its payload."""
        work = self.work
        return {
            "kind": work.kind,
            "name": work.name,
            "id": work.id,
            "attempt": work.attempt,
            "since": round(self.started, 3),
        }


class Recorder(Monitor):
    """Counts what one worker does and writes it to Redis."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._running: dict[int, _Running] = {}
        self._new: Counter[str] = Counter()
        self._seconds = 0.0
        """How long new outcomes took, as far as it is not written."""
        self._total: Counter[str] = Counter()
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_FLUSHES)
        self._cron: frozenset[str] = frozenset()
        self._cron_runs: dict[str, str] = {}
        self._started = time.time()
        self._breaker_open = False

    def around(self, work: Work) -> AbstractContextManager[object]:
        """Note an item while it is in work."""
        return _Running(self._running, work)

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Count an outcome; a job that only puts a message back is none."""
        if work.name == REQUEUE_TASK:
            return
        self._new[outcome] += 1
        self._seconds += seconds
        if work.name in self._cron:
            run = {"at": round(time.time(), 3), "outcome": outcome, "seconds": round(seconds, 3)}
            self._cron_runs[work.name] = json.dumps(run | {"id": work.id})
        del error

    def on_breaker(self, *, is_open: bool) -> None:
        """Note the state of the breaker."""
        self._breaker_open = is_open

    @asynccontextmanager
    async def lifespan(self, ctx: Ctx) -> AsyncGenerator[None]:
        """Write at intervals, from start-up until all is drained."""
        worker, redis = worker_of(ctx), redis_of(ctx)
        if worker is None or redis is None:
            yield
            return
        settings = worker.settings
        self._cron = frozenset(job.name for job in settings.cron_jobs)
        worker.paused.forget()  # an outage may hide a pause
        await refresh(redis, worker)
        tasks = {
            asyncio.create_task(self._run(redis, settings), name="history"),
            asyncio.create_task(follow(redis, worker), name="pauses"),
        }
        try:
            yield
        finally:
            await cancel(tasks)
            try:
                await self.flush(redis, settings)
                gone = ("HDEL", keys.workers(settings.config.queue_name), self.name)
                await pipelined(redis, [gone])
            except OUTAGE_ERRORS as exc:
                logger.debug("the end of the history is not written: %s", exc)

    async def _run(self, redis: ArqRedis, settings: ResolvedSettings) -> None:
        while True:
            try:
                await self.flush(redis, settings)
            except OUTAGE_ERRORS as exc:  # the counts are kept for the next time
                logger.debug("the history is not written: %s", exc)
            await asyncio.sleep(FLUSH_S)

    async def flush(self, redis: ArqRedis, settings: ResolvedSettings) -> None:
        """Write the counts since the last time, and what this worker does.

        Raises:
            redis.exceptions.RedisError: Redis does not answer; nothing of it is forgotten.
        """
        queue, now = settings.config.queue_name, time.time()
        new, runs = Counter(self._new), dict(self._cron_runs)
        new["ms"] = int(self._seconds * 1000)
        span = keys.history(queue, int(now) // SPAN_S * SPAN_S)
        commands: list[tuple[RedisArg, ...]] = [
            ("HINCRBY", span, "writes", 1),
            ("EXPIRE", span, KEPT_S),
            ("HSET", keys.workers(queue), self.name, self._describe(new, now)),
            ("EXPIRE", keys.workers(queue), round(STALE_S)),
            *(("HINCRBY", span, name, count) for name, count in new.items()),
        ]
        if runs:
            pairs = [part for item in runs.items() for part in item]
            commands += [
                ("HSET", keys.cron_runs(queue), *pairs),
                ("EXPIRE", keys.cron_runs(queue), keys.TICK_TTL_MS // 1000),
            ]
        writes, *_ = await pipelined(redis, commands)
        self._new -= new  # what was counted meanwhile stays
        self._seconds -= new["ms"] / 1000
        self._total += new
        self._recent.append((_done(new), new["ms"] / 1000))
        self._cron_runs = {n: run for n, run in self._cron_runs.items() if runs.get(n) != run}
        if writes == 1:
            await _sample(redis, settings, span)

    def _describe(self, new: Counter[str], now: float) -> str:
        running = sorted(self._running.values(), key=lambda item: item.started)
        total = self._total + new
        recent = [*self._recent, (_done(new), new["ms"] / 1000)]
        return json.dumps(
            {
                "at": round(now, 3),
                "started": round(self._started, 3),
                "running": [item.as_dict() for item in running[:MAX_RUNNING]],
                "in_work": len(running),
                "outcomes": {name: count for name, count in total.items() if name != "ms"},
                "recent": sum(count for count, _ in recent),
                "recent_seconds": round(sum(seconds for _, seconds in recent), 3),
                "breaker_open": self._breaker_open,
            }
        )


def _done(counts: Counter[str]) -> int:
    return counts.total() - counts["ms"]


async def _sample(redis: ArqRedis, settings: ResolvedSettings, span: str) -> None:
    """Add what waits to the span, and remove workers that do not write any more."""
    found = await snapshot(redis, settings)
    memory, described = await pipelined(
        redis, [("INFO", "memory"), ("HGETALL", keys.workers(settings.config.queue_name))]
    )
    values: dict[str, Any] = {
        "waiting": sum(source.waiting for source in found.sources),
        "in_work": sum(source.in_work or 0 for source in found.sources),
        "later": sum(source.later or 0 for source in found.sources),
        "dead": sum(source.dead_letters for source in found.sources),
        "oldest_ms": round(max((s.oldest_s or 0.0 for s in found.sources), default=0.0) * 1000),
        "memory": memory["used_memory"],
        "workers": len(described),
    }
    stale = [
        name
        for name, text in described.items()
        if time.time() - float(json.loads(codec.decode(text)).get("at", 0)) > STALE_S
    ]
    pairs = [part for item in values.items() for part in item]
    commands: list[tuple[RedisArg, ...]] = [("HSET", span, *pairs)]
    if stale:
        commands.append(("HDEL", keys.workers(settings.config.queue_name), *stale))
    await pipelined(redis, commands)
