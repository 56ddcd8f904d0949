"""Keeps arguments of jobs, which may be secret, out of the log of arq's own worker."""

import logging

_STARTED = "%6.2fs → %s(%s)%s"
"""What arq logs when a job starts; the third value is its arguments."""
_ARGUMENTS_AT = 2


class _HideArguments(logging.Filter):
    """Replaces the arguments; at level DEBUG they stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        args = record.args
        shown = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        if record.msg == _STARTED and isinstance(args, tuple) and args[_ARGUMENTS_AT] and not shown:
            record.args = (*args[:_ARGUMENTS_AT], "…", *args[_ARGUMENTS_AT + 1 :])
        return True


_FILTER = _HideArguments()


def hide_arguments() -> None:
    """Hide them from now on; calling it again does nothing."""
    logging.getLogger("arq.worker").addFilter(_FILTER)
