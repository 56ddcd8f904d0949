"""What runs in the current context, so that the lines of its log can name it.

The engines set it for each handler and task. What these start inherits it.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from ..monitor import Work

described: ContextVar[Callable[[], Work] | None] = ContextVar("worker_run", default=None)
"""Describes the message or job; a function, since most runs log nothing."""


@contextmanager
def of(describe: Callable[[], Work]) -> Generator[None]:
    """Set what runs within the context."""
    before = described.get()
    described.set(describe)
    try:
        yield
    finally:
        described.set(before)  # not by a token: a run that is discarded ends in another context


def suffix(line: str) -> str:
    """Return what to add to a line of a log: the run that it belongs to, unless it names it."""
    describe = described.get()
    if describe is None:
        return ""
    work = describe()
    return "" if work.id in line else f" [{work.name} {work.id}, attempt {work.attempt}]"
