# Owned by arq-worker-template: `copier update` overwrites edits; import WorkerKit in your tests.
"""Test handlers and tasks without a server: publish, run until idle, look what happened.

    async with WorkerKit(WorkerSettings, health_file=str(tmp_path / "healthy")) as kit:
        await kit.publish(OrderPlaced(order_id=42))
        result = await kit.run()
    assert result.handled == ["order.placed"]

It runs the real consumer and the real arq worker on fakeredis. Retries follow at once, without
their backoff. What needs blocking reads or a second process belongs into a test on a real server.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from arq.jobs import Job
from fakeredis import FakeAsyncRedis

from . import wire
from .config import WorkerConfig
from .connect import raw_entries
from .consumer import Consumer
from .delivery.streams import publish
from .dlq import DeadEntry, SetAside
from .events import Event, EventRouter
from .health import Heartbeat
from .jobqueue import QueueClient
from .jobs import JobWorker
from .link import RedisLink
from .monitor import Monitor, Monitors, Outcome, Work
from .settings import BaseArqWorkerSettings
from .types import Ctx, EntryId, Payload, RedisClient

TIMEOUT_S = 10.0


@dataclass(slots=True)
class Run(Monitor):
    """What one run did: the event types by outcome, in order."""

    outcomes: list[tuple[Outcome, str]] = field(default_factory=list[tuple[Outcome, str]])
    errors: list[BaseException] = field(default_factory=list[BaseException])
    jobs_complete: int = 0
    """Jobs that succeeded; requeues of failed messages among them."""
    jobs_failed: int = 0

    def ended(
        self,
        work: Work,
        outcome: Outcome,
        error: BaseException | None,
        seconds: float,  # noqa: ARG002
    ) -> None:
        """Note what became of a message."""
        if work.kind == "message":
            self.outcomes.append((outcome, work.name))
            if error is not None:
                self.errors.append(error)

    def _of(self, outcome: Outcome) -> list[str]:
        return [event_type for found, event_type in self.outcomes if found == outcome]

    @property
    def handled(self) -> list[str]:
        """Types of the events that were handled."""
        return self._of("handled")

    @property
    def retried(self) -> list[str]:
        """Types of the events that failed and were tried again, once for each retry."""
        return self._of("retried")

    @property
    def dead_lettered(self) -> list[str]:
        """Types of the events that went to the dead-letter queue."""
        return self._of("dead_lettered")

    @property
    def parked(self) -> list[str]:
        """Types that no handler knows."""
        return self._of("parked")


class WorkerKit:
    """A worker on fakeredis.

    Args:
        settings: the worker's settings; its startup hook and lifespan run, too.
        health_file: where the heartbeat goes meanwhile.
        config: instead of ``settings.config``.
    """

    def __init__(
        self,
        settings: type[BaseArqWorkerSettings],
        health_file: str,
        config: WorkerConfig | None = None,
    ) -> None:
        self.settings = settings
        self.config = config or settings.config or WorkerConfig.load()
        pool = cast("Any", FakeAsyncRedis()).connection_pool
        self.redis = QueueClient(pool, wire.dumps, wire.loads, self.config.queue_name)
        self.redis.max_payload = self.config.max_payload
        self._reader = raw_entries(QueueClient(pool))
        self._client: RedisClient = self.redis
        heartbeat = Heartbeat(health_file, self.config.heartbeat_interval)
        beside = {"redis": self.redis, "heartbeat": heartbeat, "consumer": None}
        self.ctx: Ctx = settings.ctx | beside

    async def __aenter__(self) -> Self:
        """Run the startup hook."""
        if self.settings.on_startup is not None:
            await self.settings.on_startup(self.ctx)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Run the shutdown hook."""
        if self.settings.on_shutdown is not None:
            await self.settings.on_shutdown(self.ctx)
        await self.redis.aclose(close_connection_pool=True)

    async def publish(self, *events: Event) -> list[EntryId]:
        """Publish events as the application does."""
        return await publish(self._client, *events)

    async def publish_raw(self, stream: str, payload: Payload) -> None:
        """Publish fields as they are, wrong ones, too."""
        await self._client.execute_command("XADD", stream, "*", *wire.flatten(payload))

    async def enqueue(self, function: str, *args: object, **kwargs: object) -> Job | None:
        """Enqueue a job."""
        return await self.redis.enqueue_job(function, *args, **cast("dict[str, Any]", kwargs))

    async def run(self) -> Run:
        """Handle messages and run jobs until nothing is left to do; deferred jobs do not wait.

        Raises:
            TimeoutError: it does not come to rest within `TIMEOUT_S`.
        """
        result = Run()
        async with asyncio.timeout(TIMEOUT_S):
            while await self._consume(result) or await self._run_jobs(result):
                pass
        return result

    async def dead_letters(self, stream: str) -> Sequence[DeadEntry]:
        """Return what is in the dead-letter queue of ``stream``."""
        return [entry async for entry in SetAside.dlq(self._client, stream).scan()]

    async def _consume(self, result: Run) -> bool:
        router = self.settings.router or EventRouter()
        if not router.streams:
            return False
        before = len(result.outcomes)

        policy = self.config.retry_policy(
            self.settings.permanent_errors, self.settings.transient_errors
        )
        consumer = Consumer(
            self._client,
            self._reader,
            router,
            self.config,
            policy=replace(policy, base=0.0),
            ctx=self.ctx,
            monitors=Monitors((*self.settings.monitors, result)),
            block_ms=None,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        # Idle, and still idle after two more reads: nothing was on its way either.
        reads = consumer.reads
        while not running.done() and consumer.reads < reads + 2:
            await asyncio.sleep(0.001)
            if not consumer.is_idle:
                reads = consumer.reads
        stop.set()
        await running
        return len(result.outcomes) > before

    async def _run_jobs(self, result: Run) -> bool:
        due = await self._client.execute_command("ZRANGE", self.config.queue_name, 0, -1)
        for job_id in due:
            await self._client.execute_command("ZADD", self.config.queue_name, "XX", 1, job_id)
        if not due:
            return False
        monitors = Monitors(self.settings.monitors)
        worker = JobWorker.of(self.settings, self.redis, dict(self.ctx), RedisLink(), monitors)
        await worker.run_due()
        counts = cast("Any", worker)  # arq leaves them unannotated
        result.jobs_complete += counts.jobs_complete
        result.jobs_failed += counts.jobs_failed
        return True
