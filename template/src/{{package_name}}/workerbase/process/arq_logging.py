"""Gives the log of arq's own worker what the rest of the base logs, and no more.

Arguments of jobs, which may be secret, are left out; lines about a job carry its id and function;
the job that the base itself uses to requeue messages is logged at level DEBUG; tracebacks that
repeat are left out, and the texts of errors are bounded.
"""

import logging

from ..engine.failure_record import text_of
from ..engine.text import logged_traceback, printable
from ..engine.traceback_limit import TracebackLimit
from .requeue import REQUEUE_TASK

_STARTED = "%6.2fs → %s(%s)%s"
"""What arq logs when a job starts; the third value is its arguments."""
_REF_AT, _ARGUMENTS_AT = 1, 2
_ABOUT_A_JOB = "%6.2fs "
"""How all lines about a run begin; the second value names the job."""


class _Filter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.hides_arguments = False
        self._tracebacks = TracebackLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; false if its level is too low now."""
        logger, args = logging.getLogger(record.name), record.args
        shows_all = logger.isEnabledFor(logging.DEBUG)
        if not str(record.msg).startswith(_ABOUT_A_JOB) or not isinstance(args, tuple):
            return True
        job_id, colon, function = str(args[_REF_AT]).rpartition(":")
        if colon and job_id != "cron":  # a cron job is called by its name only
            record.job_id, record.function = job_id, function
        if (
            record.msg == _STARTED
            and args[_ARGUMENTS_AT]
            and self.hides_arguments
            and not shows_all
        ):
            record.args = (*args[:_ARGUMENTS_AT], "…", *args[_ARGUMENTS_AT + 1 :])
        if function == REQUEUE_TASK and record.levelno == logging.INFO:
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            _bound_errors(record, record.exc_info[1])
            if not self._tracebacks.first(record.exc_info[1]):
                record.exc_info = record.exc_text = None
        return record.levelno > logging.DEBUG or shows_all


def _bound_errors(record: logging.LogRecord, error: BaseException) -> None:
    """Bound the error and its traceback, which arq logs whatever their size."""
    record.exc_text = logged_traceback(error)
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(text_of(value), one_line=True) if isinstance(value, BaseException) else value
            for value in record.args
        )


_FILTER = _Filter()


def adapt(*, hides_arguments: bool) -> None:
    """Adapt the log from now on; calling it again only changes whether arguments are hidden."""
    _FILTER.hides_arguments = hides_arguments
    logging.getLogger("arq.worker").addFilter(_FILTER)
