"""A worker on fakeredis, for tests of handlers and tasks.

    async with WorkerKit(WorkerSettings, str(tmp_path / "healthy")) as kit:
        await kit.enqueue(send_confirmation.job(42, "a@example.com"))
        result = await kit.run()
    assert result.handled == ["send_confirmation"]

It runs the real services and the real job worker. Retries follow at once, without their backoff.
What needs blocking reads or a second process belongs into a test on a real server.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from arq.jobs import Job
from fakeredis import FakeAsyncRedis

from ..base import BaseArqWorkerSettings
from ..broker import codec
from ..broker.clock import now_ms
from ..broker.enqueue import QueueClient
from ..inspector.dead_letters import DeadLetterEntry, DeadLetterQueue
from ..monitor import Monitor, Monitors, Outcome, Work
from ..process.heartbeat import Heartbeat
from ..process.requeue import REQUEUE_TASK
from ..process.runner import services_of
from ..process.service import Service, WorkerContext
from ..process.settings import resolved_settings
from ..types import Call, Ctx, RedisClient

TIMEOUT_S = 10.0
"""How long `WorkerKit.run` waits until there is nothing left to do."""


@dataclass(slots=True)
class Run(Monitor):
    """The outcomes of one run: event types and functions, in order."""

    outcomes: list[tuple[Outcome, str]] = field(default_factory=list[tuple[Outcome, str]])
    errors: list[BaseException] = field(default_factory=list[BaseException])

    def on_finished(
        self,
        work: Work,
        outcome: Outcome,
        error: BaseException | None,
        seconds: float,  # noqa: ARG002
    ) -> None:
        """Record an outcome; a requeue of a failed message is part of its retry."""
        if work.kind == "job" and work.name == REQUEUE_TASK:
            return
        self.outcomes.append((outcome, work.name))
        if error is not None:
            self.errors.append(error)

    def _of(self, outcome: Outcome) -> list[str]:
        return [name for found, name in self.outcomes if found == outcome]

    @property
    def handled(self) -> list[str]:
        """What was handled."""
        return self._of("handled")

    @property
    def retried(self) -> list[str]:
        """What failed and was retried, once for each retry."""
        return self._of("retried")

    @property
    def dead_lettered(self) -> list[str]:
        """What went to a dead-letter queue."""
        return self._of("dead_lettered")

    @property
    def parked(self) -> list[str]:
        """Event types that no handler knows."""
        return self._of("parked")

    @property
    def failed(self) -> list[str]:
        """Jobs that failed and leave no dead letter."""
        return self._of("failed")


class WorkerKit:
    """A worker on fakeredis.

    Args:
        settings: the worker's settings; its startup hook and lifespan run, too.
        health_file: the path of the heartbeat file meanwhile.
    """

    def __init__(self, settings: type[BaseArqWorkerSettings], health_file: str) -> None:
        self.settings = resolved_settings(settings)
        config = self.config = self.settings.config
        self._pool = cast("Any", FakeAsyncRedis()).connection_pool
        self._client = self._open_client()
        self.redis: RedisClient = cast("RedisClient", self._client)
        """A client of the worker's Redis."""
        self.ctx: Ctx = {**self.settings.ctx, "redis": self._client}
        self.worker = WorkerContext(
            settings=self.settings,
            ctx=self.ctx,
            redis=self._client,
            retry_policy=replace(self.settings.retry_policy, base=0.0),
            open_client=self._open_client,
            heartbeat=Heartbeat(health_file, config.heartbeat_interval),
            runs_services=True,
        )
        self.ctx["worker"] = self.worker

    def _open_client(self) -> QueueClient:
        config = self.config
        client = QueueClient(self._pool, codec.dumps, codec.loads, config.queue_name)
        client.max_payload_bytes = config.max_payload
        return client

    async def __aenter__(self) -> Self:
        """Run the startup hook."""
        if self.settings.on_startup is not None:
            await self.settings.on_startup(self.ctx)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Run the shutdown hook."""
        if self.settings.on_shutdown is not None:
            await self.settings.on_shutdown(self.ctx)
        await self._client.aclose(close_connection_pool=True)

    async def enqueue(self, function: str | Call, *args: object, **kwargs: object) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``, as an application does."""
        options = cast("dict[str, Any]", kwargs)
        return await self._client.enqueue_job(function, *args, **options)

    async def run(self) -> Run:
        """Handle messages and run jobs until nothing is left; deferred jobs run at once.

        Raises:
            TimeoutError: it does not end within `TIMEOUT_S`; the message lists what was handled.
        """
        result = Run()
        self.worker.monitors = Monitors((*self.settings.all_monitors, result))
        services = services_of(self.settings)
        for service in services:
            await service.startup(self.worker)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while await self._run_once(services):
                    pass
        except TimeoutError:
            done = ", ".join(f"{name} {outcome}" for outcome, name in result.outcomes) or "nothing"
            msg = f"the worker did not come to rest within {TIMEOUT_S:g} s; so far: {done}"
            raise TimeoutError(msg) from None
        return result

    async def dead_letters(self, source: str) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of a stream or queue."""
        queue = DeadLetterQueue.of_source(self.redis, source)
        return [entry async for entry in queue.scan()]

    async def _run_once(self, services: Sequence[Service]) -> bool:
        """Let each service handle what there is; return whether there was anything."""
        queue, now = self.config.queue_name, await now_ms(self.redis)
        for job_id in await self.redis.execute_command("ZRANGE", queue, 0, -1):
            await self.redis.execute_command("ZADD", queue, "XX", "LT", now, job_id)
        return any([await service.run_pending() > 0 for service in services])
