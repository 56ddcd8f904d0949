"""Write tasks: retries, deferred and unique scheduling, typed access to ``ctx``."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Never,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from arq.connections import ArqRedis
from arq.jobs import Job

from .broker.enqueue import QueueClient
from .config import WorkerConfig
from .engine.retry_policy import ErrorTypes
from .errors import RegistrationError, WorkerError
from .process.service import WorkerContext
from .process.task import Task
from .types import Call, Ctx

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .former_names import __getattr__  # noqa: F401

__all__ = [
    "JobInfo",
    "Task",
    "enqueue",
    "enqueue_at",
    "enqueue_in",
    "enqueue_once",
    "get",
    "get_config",
    "get_redis",
    "get_state",
    "job_info",
    "task",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C", bound=WorkerConfig)


class InWorker(Protocol):
    """A ``ctx`` that names its worker, as that of a handler does."""

    @property
    def worker(self) -> WorkerContext:
        """The worker."""
        ...


def task(
    *misplaced: Never,
    max_retries: int | None = None,
    backoff: float | None = None,
    backoff_max: float | None = None,
    permanent: ErrorTypes = (),
    transient: ErrorTypes = (),
    timeout: float | timedelta | None = None,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]]], Task[P, R]]:
    """Declare a task: retried with exponential backoff and full jitter when it raises.

    What is not given is the worker's: ``WORKER_MAX_RETRIES``, ``WORKER_RETRY_BACKOFF`` and so on.
    The last attempt raises its own exception, so that the job is recorded as failed with the real
    reason, and leaves a dead letter in ``{queue}:dlq``.

    Args:
        max_retries: maximum number of attempts.
        backoff: maximum of the backoff before the first retry, in seconds; doubles each time.
        backoff_max: upper bound of the backoff, in seconds.
        permanent: exceptions that a retry cannot help, beside `errors.PermanentError`.
        transient: exceptions to retry although a base class of theirs is permanent.
        timeout: maximum duration of one attempt, in seconds, instead of ``job_timeout``.
        aliases: former names of a task that was renamed; its jobs that wait under them run, too.
        misplaced: takes the function where the parentheses are missing.

    Raises:
        RegistrationError: it was used without parentheses.
    """
    if misplaced:
        raise RegistrationError("write @task() or @task(max_retries=…), with parentheses")
    limits = {"max_retries": max_retries, "base": backoff, "cap": backoff_max}
    return lambda function: Task(function, timeout, permanent, transient, aliases=aliases, **limits)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """The job that a task runs in."""

    job_id: str
    attempt: int
    """Counted from 1."""
    enqueue_time: datetime | None


def job_info(ctx: Ctx) -> JobInfo:
    """Return the job that ``ctx`` belongs to; outside a job, the first attempt of no job."""
    attempt, enqueued = ctx.get("job_try"), ctx.get("enqueue_time")
    return JobInfo(
        job_id=str(ctx.get("job_id", "")),
        attempt=attempt if isinstance(attempt, int) else 1,
        enqueue_time=enqueued if isinstance(enqueued, datetime) else None,
    )


def get(ctx: Ctx, key: str, kind: type[T]) -> T:
    """Return ``ctx[key]``.

    Raises:
        WorkerError: it is missing or of another type; the message says what there is.
    """
    value = ctx.get(key)
    if isinstance(value, kind):
        return value
    found = f"is {type(value).__name__}" if key in ctx else f"is missing among {sorted(ctx)}"
    msg = f"ctx[{key!r}] should be {kind.__name__} but {found}"
    raise WorkerError(msg)


def get_redis(ctx: Ctx) -> ArqRedis:
    """Return the worker's Redis client."""
    return get(ctx, "redis", ArqRedis)


async def enqueue(ctx: Ctx, function: str | Call, *args: object, **options: object) -> Job | None:
    """Enqueue a job from within a job; None if its ``_job_id`` exists."""
    redis = get_redis(ctx)
    if isinstance(function, Call) and not isinstance(redis, QueueClient):  # arq's own command
        args, options = function.args, {**function.kwargs, **options}
        function = function.function
    return await redis.enqueue_job(cast("str", function), *args, **cast("dict[str, Any]", options))


@overload
def get_config(ctx: Ctx | InWorker) -> WorkerConfig: ...
@overload
def get_config(ctx: Ctx | InWorker, kind: type[C]) -> C: ...
def get_config(ctx: Ctx | InWorker, kind: type[WorkerConfig] = WorkerConfig) -> WorkerConfig:
    """Return the worker's configuration, with the type of the project's own ``kind``.

    Raises:
        WorkerError: it is not a ``kind``.
    """
    worker = get(ctx, "worker", WorkerContext) if isinstance(ctx, dict) else ctx.worker
    return get({"config": worker.config}, "config", kind)


def get_state(ctx: Ctx | InWorker, kind: type[T]) -> T:
    """Return the object that the project's lifespan yielded.

    Raises:
        WorkerError: there is none, or it is not a ``kind``.
    """
    return get(ctx if isinstance(ctx, dict) else {"state": ctx.worker.state}, "state", kind)


async def enqueue_in(
    ctx: Ctx, delay: float | timedelta, function: str | Call, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job to run after ``delay`` (seconds); None if its ``_job_id`` exists."""
    return await enqueue(ctx, function, *args, **kwargs, _defer_by=delay)


async def enqueue_at(
    ctx: Ctx, when: datetime, function: str | Call, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job to run at ``when``; None if its ``_job_id`` exists.

    Raises:
        ValueError: ``when`` has no time zone, so that it would mean another time elsewhere.
    """
    if when.tzinfo is None:
        msg = f"{when!r} has no time zone"
        raise ValueError(msg)
    return await enqueue(ctx, function, *args, **kwargs, _defer_until=when)


async def enqueue_once(
    ctx: Ctx, key: str, function: str | Call, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job unless one with this ``key`` waits, runs or has a result; None then."""
    name = function.function if isinstance(function, Call) else function
    return await enqueue(ctx, function, *args, **kwargs, _job_id=f"{name}:{key}")
