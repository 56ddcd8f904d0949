"""Runs a coroutine in a context of its own, without a task of its own.

A slot runs one handler after the other in one task, so a context variable that a handler sets would
be seen by the next one. A task for each run costs several times as much as this.
"""

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class OwnContext(Generic[R]):
    """Awaits ``coroutine`` in a copy of the current context; what it sets there stays there."""

    __slots__ = ("_context", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, R]) -> None:
        self._context = copy_context()
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, R]:
        """Drive the coroutine step by step, each step in its context."""
        run, coroutine = self._context.run, self._coroutine
        step, value = coroutine.send, None
        while True:
            try:
                pending = run(step, value)
            except StopIteration as stop:
                result: R = stop.value
                return result
            try:
                step, value = coroutine.send, (yield pending)
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as exc:
                step, value = coroutine.throw, exc
