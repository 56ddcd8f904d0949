"""Plain lines of a log: none begins with what a message or an error brought along."""

import copy
import logging
from types import TracebackType
from typing import TypeAlias

from ..engine import current_run
from ..engine.text import MAX_LOGGED, bounded, logged_traceback, printable

_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None]"


class PlainFormatter(logging.Formatter):
    """Escapes and bounds the message of a record, and its traceback.

    What a handler or task logs ends with its name, id and attempt, unless the message has the id.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a copy of ``record``, since other handlers have it, too."""
        record = copy.copy(record)
        message = safe_message(record)
        record.msg, record.args = message + printable(current_run.suffix(message)), None
        record.exc_text = None
        return super().format(record)

    def formatException(  # noqa: N802 - the standard library's name
        self, ei: "_ExcInfo | tuple[None, None, None]"
    ) -> str:
        """Format the traceback."""
        return "" if ei[1] is None else logged_traceback(ei[1])


def safe_message(record: logging.LogRecord) -> str:
    """Return the message of ``record`` as one bounded line."""
    return printable(bounded(record.getMessage(), MAX_LOGGED), one_line=True)
