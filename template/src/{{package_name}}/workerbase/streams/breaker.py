"""A circuit breaker: tells "this message is bad" from "everything fails".

When many different messages fail one after the other, a dependency that they share is down, and
retries would only use up their attempts. The breaker then opens: failures count against no
message, and one message at a time is tried, with growing pauses, until one succeeds.
"""

import time
from collections.abc import Callable

MAX_PAUSE_S = 5.0
"""Maximum pause between two trials, in seconds."""


class Breaker:
    """Counts consecutive failures; not thread-safe, like everything on the event loop."""

    def __init__(
        self, threshold: int, pause: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._first_pause = pause
        self._clock = clock
        self._failing: set[str] = set()
        self._pause = pause
        self._try_at = 0.0
        self.is_open = False

    def succeeded(self) -> bool:
        """Record a success; true if that closed the breaker."""
        self._failing.clear()
        closed, self.is_open = self.is_open, False
        self._pause = self._first_pause
        return closed

    def failed(self, message_id: str) -> bool:
        """Record a failure that may pass; true if that opened the breaker."""
        if self.is_open:
            return False
        self._failing.add(message_id)
        if len(self._failing) < self._threshold:
            return False
        self.is_open = True
        self._try_at = self._clock() + self._pause
        return True

    def may_try(self) -> bool:
        """Whether one message may be tried now; each grant doubles the pause before the next.

        The pause does not grow with failures: those that were running when the breaker opened
        all fail at once.
        """
        if not self.is_open or self._clock() < self._try_at:
            return False
        self._pause = min(self._pause * 2, MAX_PAUSE_S)
        self._try_at = self._clock() + self._pause
        return True
