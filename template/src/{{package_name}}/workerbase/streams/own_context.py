"""Runs a coroutine in a context of its own, without a task of its own.

A slot runs one handler after the other in one task, so a context variable that a handler sets would
be seen by the next one. A task for each run costs several times as much as this.
"""

from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any


def start(coroutine: Coroutine[Any, Any, None]) -> "Rest | None":
    """Run ``coroutine`` in a copy of the current context until it waits for something.

    Returns:
        What is left of it, to be awaited; None if it has ended.
    """
    context = copy_context()
    try:
        pending = context.run(coroutine.send, None)
    except StopIteration:
        return None
    return Rest(context, coroutine, pending)


class Rest:
    """Awaits the rest of a coroutine; what it sets stays in its context."""

    __slots__ = ("_context", "_coroutine", "_pending")

    def __init__(
        self, context: Context, coroutine: Coroutine[Any, Any, None], pending: object
    ) -> None:
        self._context = context
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[Any, Any, None]:
        """Drive the coroutine step by step, each step in its context."""
        run, coroutine, pending = self._context.run, self._coroutine, self._pending
        while True:
            try:
                step, value = coroutine.send, (yield pending)
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as exc:
                step, value = coroutine.throw, exc
            try:
                pending = run(step, value)
            except StopIteration:
                return
