"""A task as `task_utils.task` declares it, and lists of functions."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from arq import cron as arq_cron
from arq.cron import CronJob

from ..engine.retry_policy import ErrorTypes, RetryPolicy
from ..errors import MAX_DURATION_S, RegistrationError
from ..types import Call, Ctx
from .arq_names import Function, func

P = ParamSpec("P")
R = TypeVar("R")
Runnable = TypeVar("Runnable", Function, CronJob)

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
        return arq_cron(cast("Any", self), **options)

    @staticmethod
    def from_function(function: Function | CronJob) -> "Task[..., Any] | None":
        """Return the task that ``function`` runs, if it is one."""
        run: object = function.coroutine
        return cast("Task[..., Any]", run) if isinstance(run, Task) else None

    @staticmethod
    def names_of(function: Function | CronJob) -> set[str]:
        """Return the name of a function and that of its task, whose alias or tick it may be."""
        task = Task.from_function(function)
        return {function.name} if task is None else {function.name, task.name}

    def as_function(self, name: str | None = None) -> Function:
        """Return the task as arq describes functions, also under another name."""
        return func(cast("Any", self), name=name or self.name, **self._options)


def with_limits(runnable: Runnable) -> Runnable:
    """Return what arq's ``func`` or ``cron`` made of a task, with the limits of the task.

    Those that they were given stay.
    """
    task = Task.from_function(runnable)
    if task is None:
        return runnable
    own = task.as_function()
    tries = own.max_tries if runnable.max_tries is None else runnable.max_tries
    timeout = own.timeout_s if runnable.timeout_s is None else runnable.timeout_s
    return replace(runnable, max_tries=tries, timeout_s=timeout)


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
