"""Which tracebacks are worth a place in the log: of an error that repeats, one in a while."""

import time
from collections.abc import Callable

from . import location

PERIOD_S = 60.0
"""For how long the same error is logged without its traceback, which dead letters have, too."""
MAX_ERRORS = 1_000
"""Maximum number of errors that are remembered; a service has fewer places that fail."""


class TracebackLimit:
    """Remembers which errors were logged with their traceback lately.

    Args:
        clock: for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[tuple[str, str], float] = {}

    def first(self, error: BaseException | None) -> BaseException | None:
        """Return the error if its traceback is to be logged (``exc_info``), else None.

        The same error is one of the same type at the same location.
        """
        if error is None:
            return None
        now, key = self._clock(), (type(error).__qualname__, location.of_error(error))
        if now - self._shown.get(key, float("-inf")) < PERIOD_S:
            return None
        if len(self._shown) >= MAX_ERRORS:
            self._shown.clear()
        self._shown[key] = now
        return error
