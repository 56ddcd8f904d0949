"""The seam between a process and what it runs: services.

A project lists its services in its worker settings. The runner starts each of them, watches it,
and drains it at a stop; it knows nothing else about them. Subclass `Service` and override what the
service needs.
"""

import asyncio
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Protocol, TypeAlias, cast, runtime_checkable

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms
from arq.cron import CronJob
from arq.jobs import Deserializer, Serializer

from ..broker import codec
from ..broker.availability import RedisAvailability
from ..broker.enqueue import QueueClient
from ..broker.job_record import JobSerializer
from ..config import WorkerConfig
from ..engine.pauses import Pause, Paused
from ..engine.retry_policy import RetryPolicy
from ..engine.sources import SourceStatus, WorkSource
from ..engine.traceback_limit import TracebackLimit
from ..engine.vitals import Vitals
from ..monitor import Monitor, Monitors
from ..types import Ctx, Hook, RedisClient
from .arq_names import Function
from .heartbeat import Heartbeat

HEALTH_CHECK_INTERVAL_S = 15
"""Interval at which the key that ``arq --check`` reads is written; it lives one second longer."""

Lifespan: TypeAlias = Callable[[Ctx], AbstractAsyncContextManager[object]]


@runtime_checkable
class Service(Protocol):
    """Work that runs for the life of a worker process.

    An instance in the settings is a declaration: each run works on a shallow copy, on which
    `startup` sets what the run needs. Everything but `name` has a default.
    """

    name: str
    """Unique in the worker; the name of its task in logs and errors."""
    handles_jobs: bool = False
    """Whether it runs the jobs of the queue; where no service does, arq's own worker runs them."""
    config_type: type[WorkerConfig] = WorkerConfig
    """Settings that it needs: the project's `Config` must inherit this class."""

    def monitors(self, config: WorkerConfig) -> Sequence[Monitor]:
        """Return monitors that the service brings along."""
        del config
        return ()

    def setup_process(self, config: WorkerConfig) -> bool:
        """Prepare the process before the worker starts; true if this sets up logging."""
        del config
        return False

    async def startup(self, worker: "WorkerContext") -> None:
        """Prepare a run: the lifespan of the project has been entered, nothing runs yet."""
        del worker  # a body, since type checkers take an empty one of a protocol for abstract

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Run until ``stop`` is set, then finish within ``drain`` seconds.

        An exception, or a return before ``stop`` is set, stops the whole worker.
        """
        del drain
        await stop.wait()

    def vitals(self) -> Vitals:
        """Report this service's health; called with each heartbeat."""
        return Vitals(self.name)

    async def run_pending(self) -> int:
        """Handle what is there now, in tests; return how much that was. Called after `startup`."""
        return 0

    def sources(self, config: WorkerConfig) -> Sequence[WorkSource]:
        """Describe where the service's work waits and where its dead letters are."""
        del config
        return ()

    async def status(self, redis: RedisClient, config: WorkerConfig) -> Sequence[SourceStatus]:
        """Report what waits at each source, for tools and monitors.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        del redis, config
        return ()

    async def pauses(self, redis: RedisClient, config: WorkerConfig) -> Sequence[Pause]:
        """Report what is paused, where the service reads that; raises as `status`."""
        del redis, config
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSettings:
    """The settings of a worker class as one typed value: class, bases and environment merged."""

    name: str = "Settings"
    package: str = ""
    """Top-level package of the project."""
    config: WorkerConfig
    functions: tuple[Function, ...] = ()
    cron_jobs: tuple[CronJob, ...] = ()
    services: tuple[Service, ...] = ()
    monitors: tuple[Monitor, ...] = ()
    """Monitors of the class; services bring their own."""
    setup_process: Callable[[WorkerConfig], None] | None = None
    lifespan: Lifespan | None = None
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None
    on_job_start: Hook | None = None
    on_job_end: Hook | None = None
    after_job_end: Hook | None = None
    ctx: Ctx = field(default_factory=dict[str, object])
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    keep_result_forever: bool = False
    retry_jobs: bool = True
    allow_abort_jobs: bool = True
    """Whether jobs are aborted on request; a worker that does not would run them instead."""
    job_serializer: Serializer = codec.dumps
    job_deserializer: Deserializer = codec.loads
    expires_extra_ms: int = expires_extra_ms
    timezone: tzinfo = UTC
    health_check_interval: float = HEALTH_CHECK_INTERVAL_S
    health_check_key: str = ""
    """The key that ``arq --check`` reads."""
    log_results: bool = False
    arq_only: Ctx = field(default_factory=dict[str, object])
    """Settings that only arq's own worker reads, such as ``queue_read_limit``."""

    @property
    def serializer(self) -> JobSerializer:
        """How jobs are written and read."""
        return JobSerializer.from_arq(self.job_serializer, self.job_deserializer)

    @property
    def longest_job_timeout(self) -> float:
        """The longest timeout of one attempt of a job, in seconds."""
        limited: list[Function | CronJob] = [*self.functions, *self.cron_jobs]
        return max([self.config.job_timeout, *(f.timeout_s for f in limited if f.timeout_s)])

    @property
    def all_monitors(self) -> tuple[Monitor, ...]:
        """The monitors of the class and of its services."""
        own = (monitor for service in self.services for monitor in service.monitors(self.config))
        return (*self.monitors, *own)

    def sources(self) -> tuple[WorkSource, ...]:
        """Return the queue and the sources of all services."""
        runnable: list[Function | CronJob] = [*self.functions, *self.cron_jobs]
        functions = {function.name: function.coroutine for function in runnable}
        queue = WorkSource(
            self.config.queue_name,
            "queue",
            tuple(functions),
            functions.__contains__,
            functions=functions,
        )
        others = (source for s in self.services for source in s.sources(self.config))
        return (*others, queue)


_NOT_STARTED = "the worker has not started: there is no Redis client yet"


@dataclass(slots=True, eq=False, kw_only=True)
class WorkerContext:
    """One running worker: what its services, hooks, tasks and handlers share.

    It is ``ctx["worker"]`` of every task and hook.
    """

    settings: ResolvedSettings
    ctx: Ctx = field(default_factory=dict[str, object])
    """The dictionary that tasks and hooks are given."""
    state: object = None
    """The object that the project's lifespan yielded."""
    redis: QueueClient | None = None
    """The client of the run; None under arq's own command."""
    availability: RedisAvailability = field(default_factory=RedisAvailability)
    monitors: Monitors = field(default_factory=Monitors)
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    open_client: Callable[[], QueueClient] | None = None
    heartbeat: Heartbeat | None = None
    lifespan: AsyncExitStack | None = None
    running_jobs: dict[str, float] = field(default_factory=dict[str, float])
    """When each running job started, by the monotonic clock."""
    aborting: Container[str] = ()
    """Ids of the jobs that arq's worker is asked to abort."""
    tracebacks: TracebackLimit = field(default_factory=TracebackLimit)
    """Which tracebacks are logged."""
    runs_services: bool = False
    """False under arq's own command, which runs jobs only."""
    paused: Paused = field(default_factory=Paused)
    """What is not started for now."""
    failed: bool = False
    """Something other than a requested stop ends the worker: it counts against what ran."""

    @property
    def config(self) -> WorkerConfig:
        """The configuration."""
        return self.settings.config

    @property
    def client(self) -> QueueClient:
        """The Redis client of the run.

        Raises:
            RuntimeError: the worker has not started.
        """
        if self.redis is None:
            raise RuntimeError(_NOT_STARTED)
        return self.redis

    def connect(self) -> QueueClient:
        """Open a further client, for commands that block; it is closed at the end of the run.

        Raises:
            RuntimeError: the worker has not started.
        """
        if self.open_client is None:
            raise RuntimeError(_NOT_STARTED)
        return self.open_client()

    @property
    def commands(self) -> RedisClient:
        """The same client, for plain commands."""
        return cast("RedisClient", self.client)


def worker_of(ctx: Ctx) -> WorkerContext | None:
    """Return the worker that ``ctx`` belongs to, None if it was made by hand."""
    found = ctx.get("worker")
    return found if isinstance(found, WorkerContext) else None


def redis_of(ctx: Ctx) -> ArqRedis | None:
    """Return the Redis client in ``ctx``."""
    found = ctx.get("redis")
    return found if isinstance(found, ArqRedis) else None
