"""The time after an outage in which leases that ended can be renewed before others reclaim."""

import time

from ..leasing.terms import GRACE_SHARE, SILENCE_SHARE


class OutageGrace:
    """Whether this process has reached Redis without a break for long enough to reclaim work.

    What is unavailable for one worker may be for all, and idle times grow meanwhile: whoever
    reached Redis first would reclaim what lives. A process that has just started cannot know.

    Args:
        lease_timeout: length of a lease, in seconds.
    """

    def __init__(self, lease_timeout: float) -> None:
        self._lease_timeout = lease_timeout
        self._reached_at = time.monotonic()
        self._ends_at = self._reached_at + lease_timeout * GRACE_SHARE

    def reached(self) -> None:
        """Record that Redis answered."""
        now = time.monotonic()
        if now - self._reached_at > self._lease_timeout * SILENCE_SHARE:
            self._ends_at = now + self._lease_timeout * GRACE_SHARE
        self._reached_at = now

    @property
    def is_over(self) -> bool:
        """Whether what has not been renewed is abandoned."""
        return time.monotonic() >= self._ends_at
