"""The extension point for observing a worker: metrics, traces, logs and tests are monitors.

The settings of a worker and its services list monitors; the engines call them. A worker without
monitors pays nothing, and a monitor that raises is logged and never harms the work.
"""

import contextlib
import logging
import sys
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .types import Ctx

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["message", "job"]

Outcome: TypeAlias = Literal[
    "handled", "retried", "dead_lettered", "parked", "deferred", "skipped", "failed", "aborted",
    "lease_lost", "deleted",
]  # fmt: skip
"""The end of one delivery of a message, or of one attempt of a job.

``deferred``: the message waits until the breaker of its type is closed. ``skipped``: it concerns
another consumer group; monitors do not receive this. ``failed``: the job ended with an
error and leaves no dead letter. ``deleted``: the entry was removed while it was pending.
"""

LeaseEvent: TypeAlias = Literal["renewed", "lost", "reclaimed"]


@dataclass(slots=True, unsafe_hash=True)
class Work:
    """A message or a job that passes through a worker; not to be changed.

    It is not frozen, which would cost each message a microsecond.
    """

    kind: Kind
    source: str
    """The stream, or the queue."""
    name: str
    """The event type or the function; ``?`` if it cannot be read."""
    id: str
    """The message id, which stays the same over retries and replays, or the job id."""
    attempt: int
    """Counted from 1."""
    data: bytes = b""
    """JSON of the event. It may hold secrets and must not be shown."""
    trace: str = ""
    """W3C ``traceparent`` of the sender; empty if there is none."""


class Monitor:
    """Receives worker events. Override what is of interest.

    The methods are called on the event loop and must return quickly.
    """

    def lifespan(self, ctx: Ctx) -> AbstractAsyncContextManager[object]:
        """Return a context for the life of the worker, from start-up until it has drained."""
        return nullcontext(ctx)

    def around(self, work: Work) -> AbstractContextManager[object]:
        """Return a context for one run of a handler or task; its exception passes through."""
        return nullcontext(work)

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Receive the outcome of ``work``, which ran for ``seconds`` (0 if it did not run)."""

    def on_leases(self, kind: Kind, event: LeaseEvent, count: int) -> None:
        """Receive how many leases were renewed, lost or reclaimed."""

    def on_redis_failure(self, error: BaseException) -> None:
        """Receive the error of a command that Redis did not answer or refused."""

    def on_breaker(self, *, is_open: bool) -> None:
        """Receive that the circuit breaker opened or closed."""


def _log(error: BaseException) -> None:
    """Log what a monitor raised; raise what ends the task that called it."""
    if isinstance(error, CancelledError | GeneratorExit):
        raise error
    logger.error("a monitor failed; the work goes on", exc_info=error)


class _Around:
    """Enters the contexts of several monitors, and leaves those that it entered."""

    __slots__ = ("_entered", "_monitors", "_work")

    def __init__(self, monitors: Iterable[Monitor], work: Work) -> None:
        self._monitors = monitors
        self._work = work
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        for monitor in self._monitors:
            try:
                context = monitor.around(self._work)
                context.__enter__()
                self._entered.append(context)
            except BaseException as exc:
                _log(exc)

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._entered):
            try:
                context.__exit__(*error)
            except BaseException as exc:
                _log(exc)


class Monitors(Monitor):
    """Forwards to several monitors; false if there are none."""

    def __init__(self, monitors: Iterable[Monitor] = ()) -> None:
        self._monitors = tuple(monitors)
        self._around = tuple(m for m in self._monitors if type(m).around is not Monitor.around)

    def __bool__(self) -> bool:
        """Whether there is a monitor."""
        return bool(self._monitors)

    @contextlib.asynccontextmanager
    async def lifespan(self, ctx: Ctx) -> AsyncGenerator[None]:
        """Enter the context of each monitor for the life of the worker."""
        entered: list[AbstractAsyncContextManager[object]] = []
        for monitor in self._monitors:
            try:
                context = monitor.lifespan(ctx)
                await context.__aenter__()
                entered.append(context)
            except BaseException as exc:
                _log(exc)
        try:
            yield
        finally:
            for context in reversed(entered):
                try:
                    await context.__aexit__(*sys.exc_info())
                except BaseException as exc:
                    _log(exc)

    def around(self, work: Work) -> AbstractContextManager[object]:
        """Enter the context of each monitor for one run."""
        return _Around(self._around, work) if self._around else nullcontext()

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Forward the outcome of ``work``."""
        for monitor in self._monitors:
            try:
                monitor.on_finished(work, outcome, error, seconds)
            except BaseException as exc:
                _log(exc)

    def on_leases(self, kind: Kind, event: LeaseEvent, count: int) -> None:
        """Forward a count of leases unless it is 0."""
        if count:
            self._forward(lambda monitor: monitor.on_leases(kind, event, count))

    def on_redis_failure(self, error: BaseException) -> None:
        """Forward a failure of Redis."""
        self._forward(lambda monitor: monitor.on_redis_failure(error))

    def on_breaker(self, *, is_open: bool) -> None:
        """Forward the state of the breaker."""
        self._forward(lambda monitor: monitor.on_breaker(is_open=is_open))

    def _forward(self, call: Callable[[Monitor], None]) -> None:
        for monitor in self._monitors:
            try:
                call(monitor)
            except BaseException as exc:
                _log(exc)
