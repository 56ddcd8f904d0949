"""What arq's own worker logs: no arguments of jobs, which may be secret, and bounded errors."""

import logging

from ..engine.failure_record import text_of
from ..engine.text import logged_traceback, printable

_STARTED = "%6.2fs → %s(%s)%s"
"""What arq logs when a job starts; the third value is its arguments."""
_ARGUMENTS_AT = 2


class _HideArguments(logging.Filter):
    """Replaces arguments, which stay at level DEBUG, and the texts of errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        args = record.args
        if record.exc_info and record.exc_info[1] is not None:
            # arq logs the error itself, and its traceback, whatever their size.
            record.exc_text = logged_traceback(record.exc_info[1])
            if isinstance(args, tuple):
                record.args = args = tuple(
                    printable(text_of(value), one_line=True)
                    if isinstance(value, BaseException)
                    else value
                    for value in args
                )
        shown = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        if record.msg == _STARTED and isinstance(args, tuple) and args[_ARGUMENTS_AT] and not shown:
            record.args = (*args[:_ARGUMENTS_AT], "…", *args[_ARGUMENTS_AT + 1 :])
        return True


_FILTER = _HideArguments()


def hide_arguments() -> None:
    """Hide them from now on; calling it again does nothing."""
    logging.getLogger("arq.worker").addFilter(_FILTER)
