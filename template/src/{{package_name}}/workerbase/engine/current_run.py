"""What runs in the current context, so that the lines of its log can name it.

The engines set it for each handler and task. What these start inherits it.
"""

from collections.abc import Callable
from contextvars import ContextVar

from ..monitor import Work

described: ContextVar[Callable[[], Work] | None] = ContextVar("worker_run", default=None)
"""Describes the message or job; a function, since most runs log nothing."""


def suffix(line: str) -> str:
    """Return what to add to a line of a log: the run that it belongs to, unless it names it."""
    describe = described.get()
    if describe is None:
        return ""
    work = describe()
    return "" if work.id in line else f" [{work.name} {work.id}, attempt {work.attempt}]"
