"""Circuit breakers: tell "this message is bad" from "everything of this type fails".

When many different messages of one type fail one after the other, a dependency that they share is
down, and retries would only use up their attempts. The breaker of that type then opens: what it
holds up is deferred and loses no attempt, a few messages a second are tried, and the first success
closes it. Other types and streams go on.
"""

import time
from collections.abc import Callable
from math import inf

from ..types import StreamName

EventKey = tuple[StreamName, bytes]
"""A stream and an event type."""

TRIALS_PER_S = 20.0
"""Maximum number of trials of one open breaker a second."""
MAX_BURST = 5
"""Maximum number of trials that start at once after a pause."""
CONCURRENT_SHARE = 4
"""All trials together take at most this share of the slots (a quarter), so that handlers that time
out leave room for other types."""


class Breakers:
    """The breakers of one consumer, by stream and event type; all on one event loop.

    Args:
        threshold: number of different messages that fail in a row before a breaker opens.
        concurrency: number of slots.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, threshold: int, concurrency: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._max_trials = max(1, concurrency // CONCURRENT_SHARE)
        self._clock = clock
        self._trials = 0
        self.failing: dict[EventKey, set[str]] = {}
        """Messages that have failed since the last success of their type."""
        self.open: dict[EventKey, float] = {}
        """The types whose breaker is open, and when the next trial is due."""

    def succeeded(self, key: EventKey) -> bool:
        """Record a success; true if that closed the breaker."""
        self.failing.pop(key, None)
        return self.open.pop(key, None) is not None

    def failed(self, key: EventKey, message_id: str) -> bool:
        """Record a failure that may pass; true if that opened the breaker."""
        if key in self.open:
            return False
        failing = self.failing.setdefault(key, set())
        failing.add(message_id)
        if len(failing) < self._threshold:
            return False
        self.open[key] = self._clock() + 1 / TRIALS_PER_S
        return True

    def start_trial(self, key: EventKey) -> bool:
        """Start a trial of an open breaker if one is due; `end_trial` follows."""
        now = self._clock()
        due = max(self.open.get(key, inf), now - MAX_BURST / TRIALS_PER_S)
        if due > now or self._trials >= self._max_trials:
            return False
        self.open[key] = due + 1 / TRIALS_PER_S
        self._trials += 1
        return True

    def end_trial(self) -> None:
        """Make room for another trial."""
        self._trials -= 1
