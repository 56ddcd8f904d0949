"""A worker on fakeredis, for tests of handlers and tasks.

    async with WorkerKit(WorkerSettings, str(tmp_path / "healthy")) as kit:
        await kit.enqueue(send_confirmation.job(42, "a@example.com"))
        result = await kit.run()
    assert result.handled == ["send_confirmation"]
    assert [job.result for job in result.jobs] == ["confirmed 42"]

It runs the real services and the real job worker. Retries follow at once, without their backoff.
What needs blocking reads or a second process belongs into a test on a real server.
"""

import asyncio
import contextlib
from collections.abc import Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from arq.jobs import Job, JobResult
from fakeredis import FakeAsyncRedis

from ..base import BaseArqWorkerSettings
from ..broker import codec
from ..broker.clock import now_ms
from ..broker.enqueue import QueueClient
from ..config import WorkerConfig
from ..inspector.dead_letters import DeadLetterEntry, DeadLetterQueue
from ..monitor import Monitor, Monitors, Outcome, Work
from ..process.heartbeat import Heartbeat
from ..process.requeue import REQUEUE_TASK
from ..process.runner import services_of
from ..process.service import Lifespan, Service, WorkerContext
from ..process.settings import resolved_settings
from ..types import Call, Ctx, RedisClient

TIMEOUT_S = 10.0
"""How long `WorkerKit.run` waits until there is nothing left to do."""
RESULT_TTL_S = 3600.0
"""How long the result of a job is kept where the worker keeps none."""


@dataclass(slots=True)
class Run(Monitor):
    """The outcomes of one run: event types and functions, in order."""

    outcomes: list[tuple[Outcome, str]] = field(default_factory=list[tuple[Outcome, str]])
    errors: list[BaseException] = field(default_factory=list[BaseException])
    jobs: list[JobResult] = field(default_factory=list[JobResult])
    """The jobs that ended, in order: function, args, kwargs, success, and the result or error."""
    running: dict[str, str] = field(default_factory=dict[str, str])
    """Names of the messages and jobs that are still running, by id."""
    ended_jobs: list[str] = field(default_factory=list[str])
    """Ids of the jobs that ended."""

    @contextlib.contextmanager
    def around(self, work: Work) -> Generator[None]:
        """Record what is running."""
        self.running[work.id] = work.name
        try:
            yield
        finally:
            del self.running[work.id]

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
        if work.kind == "job" and outcome != "retried":
            self.ended_jobs.append(work.id)
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


def _lifespan_of(state: object) -> Lifespan:
    def lifespan(_: Ctx) -> AbstractAsyncContextManager[object]:
        return contextlib.nullcontext(state)

    return lifespan


class WorkerKit:
    """A worker on fakeredis.

    Args:
        settings: the worker's settings; its startup hook and lifespan run, too.
        health_file: the path of the heartbeat file meanwhile.
        config: the configuration, in place of the one in the settings: for hooks, lifespan,
            handlers and tasks alike. What the class sets itself takes precedence.
        state: fakes for tests: what handlers and tasks are given in place of what the lifespan
            yields, which is not entered then.
    """

    def __init__(
        self,
        settings: type[BaseArqWorkerSettings],
        health_file: str,
        *,
        config: WorkerConfig | None = None,
        state: object = None,
    ) -> None:
        given = {"config": config, "lifespan": None if state is None else _lifespan_of(state)}
        members = {name: value for name, value in given.items() if value is not None}
        if members:
            settings = type(settings.__name__, (settings,), members)
        self.settings = resolved_settings(settings)
        if not self.settings.config.keep_result:  # to report the results of jobs
            kept = self.settings.config.model_copy(update={"keep_result": RESULT_TTL_S})
            self.settings = replace(self.settings, config=kept)
        config = self.config = self.settings.config
        self._pool = cast("Any", FakeAsyncRedis(protocol=2)).connection_pool  # as `connect`
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
            TimeoutError: it does not end within `TIMEOUT_S`; the message lists what is running
                and what was done.
        """
        result = Run()
        self.worker.monitors = Monitors((*self.settings.all_monitors, result))
        services = services_of(self.settings)
        for service in services:
            await service.startup(self.worker)
        working = asyncio.create_task(self._run_all(services))
        await asyncio.wait({working}, timeout=TIMEOUT_S)
        if not working.done():
            hanging = ", ".join(f"{name} ({id_})" for id_, name in result.running.items())
            done = ", ".join(f"{name} {outcome}" for outcome, name in result.outcomes)
            working.cancel()
            await asyncio.wait({working})
            msg = (
                f"the worker did not come to rest within {TIMEOUT_S:g} s; "
                f"running: {hanging or 'nothing'}; so far: {done or 'nothing'}"
            )
            raise TimeoutError(msg)
        await working
        for job_id in result.ended_jobs:
            job = Job(job_id, self._client, self.config.queue_name, codec.loads)
            if (ended := await job.result_info()) is not None:
                # JSON has no tuples.
                result.jobs.append(replace(ended, args=tuple(ended.args)))
        return result

    async def dead_letters(self, source: str) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of a stream or queue."""
        queue = DeadLetterQueue.of_source(self.redis, source)
        return [entry async for entry in queue.scan()]

    async def _run_all(self, services: Sequence[Service]) -> None:
        while await self._run_once(services):
            pass

    async def _run_once(self, services: Sequence[Service]) -> bool:
        """Let each service handle what there is; return whether there was anything."""
        queue, now = self.config.queue_name, await now_ms(self.redis)
        for job_id in await self.redis.execute_command("ZRANGE", queue, 0, -1):
            await self.redis.execute_command("ZADD", queue, "XX", "LT", now, job_id)
        return any([await service.run_pending() > 0 for service in services])
