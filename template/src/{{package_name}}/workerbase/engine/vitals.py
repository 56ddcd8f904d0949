"""What a service reports about its own health."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vitals:
    """The health of one service; times are seconds of the monotonic clock."""

    name: str
    last_pass: float | None = None
    """When its loop last completed a pass; None if it has no loop of its own."""
    overdue_at: float | None = None
    """When the work that has run longest reaches its timeout."""
    overdue: str | None = None
    """Description of that work."""
    note: str = ""
    """A condition that operators should know although the process itself is healthy."""
