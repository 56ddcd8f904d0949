# Owned by arq-worker-template: `copier update` overwrites edits; call these helpers instead.
"""Write tasks: retries, later and once-only scheduling, typed access to ``ctx``."""

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, Never, ParamSpec, TypeVar, cast

from arq import cron as arq_cron
from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.jobs import Job
from arq.worker import Function, RetryJob, func
from arq.worker import Retry as ArqRetry

from .config import WorkerConfig
from .errors import RegistrationError, WorkerError
from .jobqueue import QueueClient
from .retry import ErrorTypes, Retry, RetryPolicy
from .types import Call, Ctx

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Task(Generic[P, R]):
    """A task and how it is run; made by `task`.

    It is called like the function that it wraps, in tests for example. `job` makes what is
    enqueued, so that type checkers compare the arguments with the function's.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]],
        timeout: float | timedelta | None,
        permanent: ErrorTypes,
        transient: ErrorTypes,
        **limits: Any,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = function.__qualname__
        self._function = function
        self._permanent, self._transient = permanent, transient
        self._limits = {name: value for name, value in limits.items() if value is not None}
        self._options: dict[str, Any] = {"max_tries": limits["max_retries"], "timeout": timeout}

    async def __call__(self, ctx: Ctx, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now."""
        return await self._function(ctx, *args, **kwargs)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Return the call of this task with these arguments, to be enqueued."""
        return Call(self.name, args, kwargs)

    def policy(self, default: RetryPolicy) -> RetryPolicy:
        """Return the worker's policy with what this task declared for itself."""
        return replace(
            default,
            permanent=(*self._permanent, *default.permanent),
            transient=(*self._transient, *default.transient),
            **self._limits,
        )

    def cron(self, **schedule: Any) -> CronJob:
        """Return a cron job of this task; the arguments are those of ``arq.cron``."""
        name = f"cron:{self.name}"
        options: dict[str, Any] = {"name": name, **self._options, **schedule}
        return arq_cron(cast("Any", self.for_arq().coroutine), **options)

    @staticmethod
    def of(function: Function | CronJob) -> "Task[..., Any] | None":
        """Return the task that `for_arq` wrapped, if ``function`` is one."""
        return cast("Task[..., Any] | None", getattr(function.coroutine, "task", None))

    def for_arq(self) -> Function:
        """Return the task as arq knows it.

        Plain arq would not retry what raises, so the function is wrapped for it; our worker
        takes the task out again (`of`) and applies the policy itself.
        """

        async def run(ctx: Ctx, /, *args: Any, **kwargs: Any) -> R:
            try:
                return await self._function(ctx, *args, **kwargs)
            except (ArqRetry, RetryJob):
                raise
            except Exception as exc:
                config = ctx.get("config")
                known = config.retry_policy() if isinstance(config, WorkerConfig) else RetryPolicy()
                decision = self.policy(known).decide(exc, job_info(ctx).attempt)
                if isinstance(decision, Retry):
                    raise ArqRetry(decision.delay) from exc
                raise

        run.task = self  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]
        return func(cast("Any", run), name=self.name, **self._options)


def task(
    *misplaced: Never,
    max_retries: int | None = None,
    backoff: float | None = None,
    backoff_max: float | None = None,
    permanent: ErrorTypes = (),
    transient: ErrorTypes = (),
    timeout: float | timedelta | None = None,
) -> Callable[[Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]]], Task[P, R]]:
    """Declare a task: retried with exponential backoff and full jitter when it raises.

    What is not given is the worker's: ``WORKER_MAX_RETRIES``, ``WORKER_RETRY_BACKOFF`` and so on.
    The last try raises its own exception, so that the job is recorded as failed with the real
    reason.

    Args:
        max_retries: tries in all.
        backoff: seconds before the first retry, at most; doubles with each try.
        backoff_max: upper bound of the backoff, in seconds.
        permanent: exceptions that end the job at once, beside `errors.PermanentError`.
        transient: exceptions to retry although a base class of theirs is permanent.
        timeout: of one try, in seconds, instead of the worker's ``job_timeout``.
        misplaced: nothing; there to tell who forgot the parentheses.

    Raises:
        RegistrationError: it was used without parentheses.
    """
    if misplaced:
        raise RegistrationError("write @task() or @task(max_retries=…), with parentheses")
    limits = {"max_retries": max_retries, "base": backoff, "cap": backoff_max}
    return lambda function: Task(function, timeout, permanent, transient, **limits)


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


async def enqueue(ctx: Ctx, function: str | Call, *args: object, **options: object) -> Job | None:
    """Enqueue a job from within a job; None if its ``_job_id`` exists."""
    redis = get_redis(ctx)
    if isinstance(function, Call) and not isinstance(redis, QueueClient):  # plain arq's
        args, options = function.args, {**function.kwargs, **options}
        function = function.function
    return await redis.enqueue_job(cast("str", function), *args, **cast("dict[str, Any]", options))


def get_config(ctx: Ctx) -> WorkerConfig:
    """Return the worker's configuration."""
    return get(ctx, "config", WorkerConfig)


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
