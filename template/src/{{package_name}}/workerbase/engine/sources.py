"""Where work waits in Redis, as the services describe it to tools and monitors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..types import StreamName

MAX_COUNTED = 2_000
"""Where Redis does not know how many entries wait, they are counted up to this number."""


def _knows_all(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class WorkSource:
    """A stream or a queue whose dead letters are in ``{name}:dlq``."""

    name: StreamName
    kind: str
    """``stream`` or ``queue``."""
    names: tuple[str, ...] = ()
    """Event types or functions that this worker handles."""
    knows: Callable[[str], bool] = _knows_all
    """Whether this worker handles an event type or function."""
    parks: bool = False
    """Whether messages of unknown type wait in ``{name}:parked``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """What waits at one source right now; None means that it does not apply or is not known."""

    name: StreamName
    kind: str
    """``stream`` or ``queue``."""
    waiting: int
    """Work that is due and not yet given to a worker."""
    in_work: int | None = None
    """Work that a worker has and has not settled."""
    later: int | None = None
    """Work that is due later: retries and deferred jobs."""
    consumers: int | None = None
    """Members of the consumer group."""
    delivered: int | None = None
    """Entries ever delivered to the group; Redis 6.2 does not count them."""
    oldest_waiting_s: float | None = None
    """Age of the oldest entry that no worker has, in seconds."""
    oldest_in_work_s: float | None = None
    """Age of the oldest entry that a worker has, in seconds."""
    longest_idle_s: float | None = None
    """Longest time since an entry that a worker has was delivered, or its lease renewed; 0 while
    all of them are looked after. In seconds."""
    length: int | None = None
    """Entries in the stream, settled ones included."""
    parked: int | None = None
    """Messages of unknown type."""
    dead_letters: int = 0
    missing: Literal["", "stream", "consumer group"] = ""
    """What does not exist in Redis yet."""
    alive: bool = False
    """Whether somebody read from it within the last seconds; False where that is not known."""

    @property
    def oldest_s(self) -> float | None:
        """Age of the oldest entry that is not settled, in seconds."""
        ages = [a for a in (self.oldest_in_work_s, self.oldest_waiting_s) if a is not None]
        return max(ages, default=None)

    @property
    def added(self) -> int | None:
        """Entries ever added, from which rates can be taken."""
        return None if self.delivered is None else self.delivered + self.waiting

    @property
    def settled(self) -> int | None:
        """Entries ever settled by the group: handled, to be retried, or set aside."""
        return None if self.delivered is None else self.delivered - (self.in_work or 0)
