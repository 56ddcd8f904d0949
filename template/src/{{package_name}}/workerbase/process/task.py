"""A task as `task_utils.task` declares it, and how arq's own worker runs it."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from arq import cron as arq_cron
from arq.cron import CronJob

from ..engine.failure_record import is_harmless
from ..engine.retry_policy import DeadLetter, Decision, ErrorTypes, Retry, RetryPolicy, unwrap
from ..errors import MAX_DURATION_S, RegistrationError, WorkerError
from ..types import Call, Ctx
from . import job_failures
from .arq_names import ArqRetry, Function, RetryJob, func
from .service import worker_of

P = ParamSpec("P")
R = TypeVar("R")
Runnable = TypeVar("Runnable", Function, CronJob)

FOR_ARQ = (ArqRetry, RetryJob, asyncio.CancelledError, GeneratorExit)
"""What a task raises to arq or to the event loop, not as a failure of its own."""
_FUNCTION_LIKE = ("__code__", "__defaults__", "__kwdefaults__")
"""With these, ``inspect``, and so arq's ``func``, takes a task for an async function."""


class Task(Generic[P, R]):
    """A task and how it is run; made by `task_utils.task`.

    Calling it calls the function, in tests for example. `job` makes a call to be enqueued, whose
    arguments type checkers compare with those of the function.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Ctx, P], Coroutine[Any, Any, R]],
        timeout: float | timedelta | None,
        permanent: ErrorTypes,
        transient: ErrorTypes,
        *,
        aliases: Sequence[str] = (),
        **limits: Any,
    ) -> None:
        _check(function, aliases, limits)
        functools.update_wrapper(self, function, (*functools.WRAPPER_ASSIGNMENTS, *_FUNCTION_LIKE))
        self.name = function.__qualname__
        self.aliases = tuple(aliases)
        self._function = function
        self._permanent, self._transient = permanent, transient
        self._limits = {name: value for name, value in limits.items() if value is not None}
        self._options: dict[str, Any] = {"max_tries": limits["max_retries"], "timeout": timeout}

    async def __call__(self, ctx: Ctx, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now."""
        return await self._function(ctx, *args, **kwargs)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Return a call of this task with these arguments, to be enqueued."""
        return Call(self.name, args, kwargs)

    def policy(self, default: RetryPolicy) -> RetryPolicy:
        """Return the worker's policy with what this task declares for itself."""
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
        run = self.for_arq(options["name"], options["max_tries"]).coroutine
        return arq_cron(cast("Any", run), **options)

    @staticmethod
    def from_function(function: Function | CronJob) -> "Task[..., Any] | None":
        """Return the task that `for_arq` wrapped, if ``function`` is one."""
        return cast("Task[..., Any] | None", getattr(function.coroutine, "task", None))

    @staticmethod
    def names_of(function: Function | CronJob) -> set[str]:
        """Return the name of a function and that of its task, whose alias or tick it may be."""
        task = Task.from_function(function)
        return {function.name} if task is None else {function.name, task.name}

    async def settle(
        self,
        ctx: Ctx,
        raised: BaseException,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        name: str,
        tries: int | None,
    ) -> Decision:
        """Decide what follows a failed attempt, and record it before arq ends the job.

        An outage of Redis delays it until the job's timeout. ``name`` is that of the function in
        arq, and ``tries`` its own limit, if it has one.
        """
        error = unwrap(raised)
        worker = worker_of(ctx)
        policy = self.policy(worker.retry_policy if worker else RetryPolicy())
        policy = replace(policy, max_retries=tries or policy.max_retries)
        attempt = ctx.get("job_try")
        attempt = attempt if isinstance(attempt, int) else 1
        decision = policy.decide(error, attempt)
        if isinstance(error, TypeError) and not fits(self, args, kwargs):
            decision = DeadLetter("invalid")
        if isinstance(decision, Retry) and worker and not worker.settings.retry_jobs:
            decision = DeadLetter("retries")
        failed = job_failures.Failure(name, args, kwargs, attempt, error)
        if isinstance(decision, Retry):
            await job_failures.record(ctx, failed)
        else:
            await job_failures.dead_letter(ctx, failed, decision.reason)
        return decision

    def for_arq(self, name: str | None = None, max_tries: int | None = None) -> Function:
        """Return the task as arq's own worker runs it, also under another name or limit.

        That worker neither retries what raises nor keeps dead letters, so the function is wrapped
        for it. `jobs` unwraps the task (`from_function`) and applies the policy itself.
        """
        name, tries = name or self.name, max_tries or self._options["max_tries"]

        async def run(ctx: Ctx, /, *args: Any, **kwargs: Any) -> R:
            try:
                return await self._function(ctx, *args, **kwargs)
            except FOR_ARQ:
                raise
            except BaseException as exc:
                decision = await self.settle(ctx, exc, args, kwargs, name=name, tries=tries)
                if isinstance(decision, Retry):
                    raise ArqRetry(decision.delay) from exc
                if is_harmless(exc):
                    raise
                msg = f"the task raised {type(exc).__name__}"
                raise WorkerError(msg) from exc  # a task must not end the worker

        run.task = self  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]
        return func(cast("Any", run), name=name, timeout=self._options["timeout"], max_tries=tries)


def as_declared(runnable: Runnable) -> Runnable:
    """Return what arq's ``func`` or ``cron`` made of a task as its own worker runs it.

    What they were not given is as the task declares it.
    """
    task: object = runnable.coroutine
    if not isinstance(task, Task):
        return runnable
    own = task.for_arq(runnable.name, runnable.max_tries)
    timeout = own.timeout_s if runnable.timeout_s is None else runnable.timeout_s
    made = {"coroutine": own.coroutine, "max_tries": own.max_tries, "timeout_s": timeout}
    return replace(runnable, **cast("dict[str, Any]", made))


class JobTimeout:
    """Cancels an attempt of a job at its limit; the `TimeoutError` tells which limit that is.

    Args:
        function: which may have a limit of its own.
        seconds: the limit that applies.
    """

    __slots__ = ("_limit", "_timer")

    def __init__(self, function: Function | CronJob, seconds: float) -> None:
        name = "WORKER_JOB_TIMEOUT" if function.timeout_s is None else "its own timeout"
        self._limit = seconds, name
        self._timer = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        """Start the timer."""
        await self._timer.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the timer.

        Raises:
            TimeoutError: the limit was reached.
        """
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            seconds, name = self._limit
            msg = f"it took longer than {seconds:g} s ({name})"
            raise TimeoutError(msg) from exc


def fits(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> bool:
    """Whether the arguments of a job fit the signature of its function or task."""
    try:
        inspect.signature(function).bind(None, *args, **kwargs)
    except TypeError:
        return False
    return True


def _check(function: Callable[..., Any], aliases: Sequence[str], limits: Mapping[str, Any]) -> None:
    """Refuse what cannot run as a task.

    Raises:
        RegistrationError: names the function and what would be right.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function) or not hasattr(function, "__qualname__"):
        msg = f"task {name} is not an async function: write async def {name}(ctx, …)"
        raise RegistrationError(msg)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        msg = f"task {name} has no parameter for the context: write async def {name}(ctx, …)"
        raise RegistrationError(msg)
    if isinstance(aliases, str) or not all(isinstance(cast("object", a), str) for a in aliases):
        msg = f"task {name}: aliases is {aliases!r}, not a list or tuple of names"
        raise RegistrationError(msg)
    tries = limits["max_retries"]
    if tries is not None and (not isinstance(tries, int) or isinstance(tries, bool) or tries < 1):
        msg = f"task {name}: max_retries is {tries!r}, not a number of attempts from 1"
        raise RegistrationError(msg)
    for option in ("base", "cap"):
        seconds = limits[option]
        if seconds is not None and (
            not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_DURATION_S
        ):
            msg = f"task {name}: a backoff is {seconds!r}, not a number of seconds"
            raise RegistrationError(msg)


AnyFunction = Function | Task[..., Any] | Callable[..., Any]
"""What ``functions`` of a settings class may list."""


class FunctionList(list[AnyFunction]):
    """A list of functions to which lists and tuples can be added, on either side."""

    def __add__(self, other: Iterable[AnyFunction]) -> "FunctionList":  # type: ignore[override]
        """Return a new list with ``other`` at its end."""
        return FunctionList([*self, *other])

    def __radd__(self, other: Iterable[AnyFunction]) -> "FunctionList":
        """Return a new list with ``other`` at its beginning."""
        return FunctionList([*other, *self])
