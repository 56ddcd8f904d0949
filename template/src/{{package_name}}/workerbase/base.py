"""The contract: settings, hooks, core tasks and the client that every worker builds on.

It reads from top to bottom as the design states it. The machinery behind it is in `process`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self, cast

from arq.cron import CronJob
from arq.jobs import Job

from .config import WorkerConfig
from .delivery.arq import ArqAdapter
from .engine.retry_policy import ErrorTypes
from .monitor import Monitor
from .process import hooks
from .process.requeue import MAX_REQUEUE_ATTEMPTS, requeue
from .process.service import Lifespan, Service
from .process.settings import resolve
from .process.task import AnyFunction, FunctionList, Task
from .types import Call, Ctx, FieldValue, Hook, RedisClient

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .former_names import __getattr__  # noqa: F401


async def base_startup(ctx: Ctx) -> None:
    """Create the health file and enter the lifespan; does nothing if that was done.

    Raises:
        ConfigError: the health file cannot be written.
    """
    await hooks.start(ctx)


async def base_shutdown(ctx: Ctx) -> None:
    """Leave the lifespan and remove the health file, even where Redis is unavailable."""
    await hooks.stop(ctx)


async def requeue_to_stream(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    """Put a failed message back into its stream, or into ``{stream_name}:dlq`` after the last try.

    ``payload["_retries"]`` is incremented. A count below ``max_retries`` goes back to the stream,
    any other to the dead-letter queue: five deliveries in all, by default. Running twice for one
    failure (the same job, or the same ``_entry_id``) adds the message once. What no stream can
    hold goes to the dead-letter queue at once.

    Raises:
        PermanentError: ``stream_name`` is not the name of a stream; the job is dead-lettered.
        RequeueError: nothing was written, and arq runs the job again later.
    """
    await requeue(ctx, stream_name, payload)


_REQUEUE: Task[..., None] = Task(
    requeue_to_stream, None, (), (), max_retries=MAX_REQUEUE_ATTEMPTS, base=None, cap=None
)
CORE_FUNCTIONS = FunctionList([replace(_REQUEUE.as_function(), keep_result_s=0)])
"""Functions that every worker has; `BaseArqWorkerSettings` adds them where they are missing."""


class BaseArqWorkerSettings:
    """Base of the settings of a worker: subclass it and set ``functions``.

    Settings are inherited over several levels and from mixins, although arq itself reads only the
    ``__dict__`` of one class: each subclass is given all of arq's settings when it is defined. A
    value comes from the class or its bases, else from `config` (the environment), else from here.
    `CORE_FUNCTIONS` are added to ``functions``, and hooks run beside the base's own.

    Raises:
        SettingsError: (at definition) a public name is not a setting, or a function is not async.
        ConfigError: (at definition) the environment is invalid and the class sets no ``config``.
    """

    functions: ClassVar[Sequence[AnyFunction]] = CORE_FUNCTIONS
    cron_jobs: ClassVar[Sequence[CronJob] | None] = None
    max_jobs: ClassVar[int] = 20
    job_timeout: ClassVar[float | timedelta] = 60
    max_retries: ClassVar[int] = 5
    """Maximum number of attempts of jobs and messages (``max_tries`` in arq)."""
    max_tries: ClassVar[int] = 5
    on_startup: ClassVar[Hook | None] = base_startup
    on_shutdown: ClassVar[Hook | None] = base_shutdown

    config: ClassVar[WorkerConfig | None] = None
    """The configuration; read from the environment if not set."""
    services: ClassVar[Sequence[Service]] = ()
    """What the process runs beside arq's own worker, or in its place."""
    ctx: ClassVar[Ctx] = {}
    """The content of the ``ctx`` of every hook and task."""
    lifespan: ClassVar[Lifespan | None] = None
    """Makes what tasks and handlers need (``ctx["state"]``), and cleans it up."""
    permanent_errors: ClassVar[ErrorTypes] = ()
    """Exceptions that a retry cannot help."""
    transient_errors: ClassVar[ErrorTypes] = ()
    """Exceptions to retry although a base class of theirs is permanent."""
    monitors: ClassVar[Sequence[Monitor]] = ()
    """Receive worker events."""
    setup_process: ClassVar[Callable[[WorkerConfig], None] | None] = None
    """Prepares the process of the `run` command, its logging above all; by default the log is
    plain lines on standard error."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Resolve all settings of the new class."""
        super().__init_subclass__(**kwargs)
        resolve(cls, BaseArqWorkerSettings)


class BaseArqService:
    """Enqueues jobs from inside a worker; subclass it to name your jobs.

    The connection opens on first use, and again after `close`.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._adapter = ArqAdapter(config or WorkerConfig.load)

    async def init(self) -> None:
        """Open the connection and check it.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        await cast("RedisClient", self._adapter.for_loop).execute_command("PING")

    async def close(self) -> None:
        """Close the connection; does nothing if it is closed."""
        await self._adapter.aclose()

    async def __aenter__(self) -> Self:
        """Open the connection."""
        await self.init()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    async def enqueue_job(
        self, function: str | Call, *args: object, **kwargs: object
    ) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``.

        ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.

        Raises:
            redis.exceptions.RedisError: Redis did not accept it.
            arq.jobs.SerializationError: an argument has no JSON form.
        """
        return await self._adapter.enqueue(function, *args, **kwargs)
