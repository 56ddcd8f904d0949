"""Where work waits in Redis, as the services describe it to tools and monitors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import BaseModel

from ..types import StreamName

MAX_COUNTED = 2_000
"""Where Redis does not know how many entries wait, they are counted up to this number."""


Function: TypeAlias = Callable[..., object]


MAX_SILENCE_S = 15.0
"""Longer than a consumer of a live worker ever waits before it asks for entries again."""


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
    functions: Mapping[str, Callable[..., object]] = field(
        default_factory=dict[str, Callable[..., object]]
    )
    """What handles each event type or function, by name."""
    models: Mapping[str, type[BaseModel]] = field(default_factory=dict[str, type[BaseModel]])
    """The model of each event type."""
    parks: bool = False
    """Whether messages of unknown type wait in ``{name}:parked``."""
    group: str = ""
    """The consumer group that reads the stream."""


@dataclass(frozen=True, slots=True)
class OtherGroup:
    """A consumer group of another service, which keeps entries from being removed."""

    name: str
    unsettled: int | None
    """Number of entries that it has not settled; None if it is not known."""
    oldest_s: float
    """Age of the oldest of them, in seconds."""
    silent_s: float | None
    """Time since one of its consumers last asked for entries, in seconds; None if it has none."""

    @property
    def is_silent(self) -> bool:
        """Whether no worker of the group seems to live."""
        return self.silent_s is None or self.silent_s > MAX_SILENCE_S

    def warning(self, stream: StreamName) -> str:
        """Say that it keeps entries of ``stream`` although no worker of it seems to live."""
        count = "" if self.unsettled is None else f"{self.unsettled:,} "
        return (
            f"the consumer group {self.name} of {stream} has no live worker and keeps {count}"
            f"entries, the oldest for {self.oldest_s:,.0f} s; if it is retired, remove it: "
            f"`groups rm {self.name}`"
        )


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
    other_groups: tuple[OtherGroup, ...] = ()
    """Further consumer groups of the stream that have not settled all of it."""
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
