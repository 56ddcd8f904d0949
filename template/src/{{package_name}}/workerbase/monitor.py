# Owned by arq-worker-template: `copier update` overwrites edits; subclass Monitor instead.
"""What happens in a worker, told as it happens: to metrics, traces, logs and tests.

A worker's settings list their monitors; the engines call them. Nothing is called for a worker
without monitors, and a monitor that raises is logged and never harms the work.
"""

import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TypeAlias

from .types import Ctx

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["message", "job"]

Outcome: TypeAlias = Literal[
    "handled", "retried", "dead_lettered", "parked", "held", "failed", "aborted", "lease_lost",
    "deleted",
]  # fmt: skip
"""What became of one delivery of a message, or one try of a job.

``held``: the breaker keeps the message for another try. ``failed``: the job ended with an error
and leaves no dead letter. ``deleted``: somebody removed the entry while it was pending.
"""

LeaseEvent: TypeAlias = Literal["renewed", "lost", "taken_over"]


@dataclass(frozen=True, slots=True)
class Work:
    """A message or a job on its way through a worker."""

    kind: Kind
    source: str
    """The stream, or the queue."""
    name: str
    """The event type, or the function; ``?`` if it cannot be read."""
    id: str
    """The message id, which stays the same over retries and replays, or the job id."""
    attempt: int
    """Counted from 1."""
    data: bytes = b""
    """JSON of the event. It may hold secrets: do not show it."""
    trace: str = ""
    """W3C ``traceparent`` of whoever sent it, empty if it came without."""


class Monitor:
    """Override what you want to know. The methods are called on the event loop: be quick."""

    def alongside(self, ctx: Ctx) -> AbstractAsyncContextManager[object]:
        """Surround the life of the worker, from its start-up until it has drained."""
        return nullcontext(ctx)

    def running(self, work: Work) -> AbstractContextManager[object]:
        """Surround the run of a handler or task; its exception passes through the context."""
        return nullcontext(work)

    def ended(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Note what became of ``work`` after it ran for ``seconds`` (0 if it did not run)."""

    def leases(self, kind: Kind, event: LeaseEvent, count: int) -> None:
        """Note what happened to leases of messages or jobs."""

    def redis_failed(self, error: BaseException) -> None:
        """Note that Redis did not answer, or refused."""

    def breaker(self, *, is_open: bool) -> None:
        """Note that the breaker opened, or closed."""


class _Guard:
    """Logs what a monitor raises; a class, since a generator costs a message ten times as much."""

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        logger.error("a monitor failed; the work goes on", exc_info=error)
        return True


_GUARD = _Guard()


class _Around:
    """Enters the contexts of several monitors, and leaves those that it entered."""

    __slots__ = ("_entered", "_monitors", "_work")

    def __init__(self, monitors: Iterable[Monitor], work: Work) -> None:
        self._monitors = monitors
        self._work = work
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        for monitor in self._monitors:
            with _GUARD:
                context = monitor.running(self._work)
                context.__enter__()
                self._entered.append(context)

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._entered):
            with _GUARD:
                context.__exit__(*error)


class Monitors(Monitor):
    """Tells several monitors; false if there are none."""

    def __init__(self, monitors: Iterable[Monitor] = ()) -> None:
        self._monitors = tuple(monitors)

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._monitors)

    @contextlib.asynccontextmanager
    async def alongside(self, ctx: Ctx) -> AsyncGenerator[None]:
        """Surround the life of the worker with the context of each."""
        entered: list[AbstractAsyncContextManager[object]] = []
        for monitor in self._monitors:
            with _GUARD:
                context = monitor.alongside(ctx)
                await context.__aenter__()
                entered.append(context)
        try:
            yield
        finally:
            for context in reversed(entered):
                with _GUARD:
                    await context.__aexit__(*sys.exc_info())

    def running(self, work: Work) -> AbstractContextManager[object]:
        """Surround the run of a handler or task with the context of each."""
        return _Around(self._monitors, work)

    def ended(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Tell all what became of ``work``."""
        for monitor in self._monitors:
            with _GUARD:
                monitor.ended(work, outcome, error, seconds)

    def leases(self, kind: Kind, event: LeaseEvent, count: int) -> None:
        """Tell all what happened to leases."""
        if count:
            self._tell(lambda monitor: monitor.leases(kind, event, count))

    def redis_failed(self, error: BaseException) -> None:
        """Tell all that Redis failed."""
        self._tell(lambda monitor: monitor.redis_failed(error))

    def breaker(self, *, is_open: bool) -> None:
        """Tell all about the breaker."""
        self._tell(lambda monitor: monitor.breaker(is_open=is_open))

    def _tell(self, call: Callable[[Monitor], None]) -> None:
        for monitor in self._monitors:
            with _GUARD:
                call(monitor)
