# Owned by arq-worker-template: `copier update` overwrites edits; call these helpers instead.
"""Write tasks: retries, later and once-only scheduling, typed access to ``ctx``."""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import Retry as ArqRetry
from arq.worker import RetryJob

from .config import WorkerConfig
from .errors import WorkerError
from .retry import ErrorTypes, Retry, RetryPolicy
from .types import Ctx

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_OPTIONS = "__worker_task__"


def task(
    *,
    max_retries: int = 5,
    backoff: float = 1.0,
    backoff_max: float = 300.0,
    permanent: ErrorTypes = (),
    transient: ErrorTypes = (),
    timeout: float | timedelta | None = None,
) -> Callable[
    [Callable[Concatenate[Ctx, P], Awaitable[R]]],
    Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]],
]:
    """Retry the task with exponential backoff and full jitter when it raises.

    arq by itself runs a task that raises only once. The last try raises its own exception, so
    that the job is recorded as failed with the real reason.

    Args:
        max_retries: tries in all.
        backoff: seconds before the first retry, at most; doubles with each try.
        backoff_max: upper bound of the backoff, in seconds.
        permanent: exceptions that end the job at once, beside `errors.PermanentError`.
        transient: exceptions to retry although a base class of theirs is permanent.
        timeout: of one try, in seconds, instead of the worker's ``job_timeout``.
    """
    policy = RetryPolicy(max_retries, backoff, backoff_max, permanent, transient)

    def decorate(
        function: Callable[Concatenate[Ctx, P], Awaitable[R]],
    ) -> Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]]:
        @functools.wraps(function)
        async def run(ctx: Ctx, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return await function(ctx, *args, **kwargs)
            except (ArqRetry, RetryJob):
                raise
            except Exception as exc:
                decision = policy.decide(exc, job_info(ctx).attempt)
                if isinstance(decision, Retry):
                    raise ArqRetry(decision.delay) from exc
                raise

        setattr(run, _OPTIONS, {"max_tries": max_retries, "timeout": timeout})
        return run

    return decorate


def options_of(function: object) -> dict[str, Any]:
    """Return what `task` declared, as arguments of ``arq.worker.func``."""
    return cast("dict[str, Any]", getattr(function, _OPTIONS, {}))


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What arq tells a task about its job."""

    job_id: str
    attempt: int
    """Counted from 1."""
    enqueue_time: datetime | None


def job_info(ctx: Ctx) -> JobInfo:
    """Return the job that ``ctx`` belongs to; outside a job, the first try of no job."""
    attempt, enqueued = ctx.get("job_try"), ctx.get("enqueue_time")
    return JobInfo(
        job_id=str(ctx.get("job_id", "")),
        attempt=attempt if isinstance(attempt, int) else 1,
        enqueue_time=enqueued if isinstance(enqueued, datetime) else None,
    )


def get(ctx: Ctx, key: str, kind: type[T]) -> T:
    """Return ``ctx[key]``.

    Raises:
        WorkerError: it is missing or no ``kind``; the message says what there is.
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


def get_config(ctx: Ctx) -> WorkerConfig:
    """Return the worker's configuration."""
    return get(ctx, "config", WorkerConfig)


async def enqueue_in(
    ctx: Ctx, delay: float | timedelta, function: str, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job to run after ``delay`` (seconds); None if its ``_job_id`` exists."""
    options = cast("dict[str, Any]", {**kwargs, "_defer_by": delay})
    return await get_redis(ctx).enqueue_job(function, *args, **options)


async def enqueue_at(
    ctx: Ctx, when: datetime, function: str, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job to run at ``when``; None if its ``_job_id`` exists.

    Raises:
        ValueError: ``when`` has no time zone, so that it would mean another time elsewhere.
    """
    if when.tzinfo is None:
        msg = f"{when!r} has no time zone"
        raise ValueError(msg)
    options = cast("dict[str, Any]", {**kwargs, "_defer_until": when})
    return await get_redis(ctx).enqueue_job(function, *args, **options)


async def enqueue_once(
    ctx: Ctx, key: str, function: str, *args: object, **kwargs: object
) -> Job | None:
    """Enqueue a job unless one with this ``key`` waits, runs or has a result; None then."""
    options = cast("dict[str, Any]", {**kwargs, "_job_id": f"{function}:{key}"})
    return await get_redis(ctx).enqueue_job(function, *args, **options)
