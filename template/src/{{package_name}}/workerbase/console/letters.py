"""Which dead letters an address or a form means, and what may be done with them."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC

from ..broker import keys
from ..engine.human_input import duration, moment
from ..errors import PayloadError
from ..inspector import changes
from ..inspector.changes import Change
from ..inspector.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQueue,
    ErrorGroup,
    queues_of,
)
from ..inspector.matching import parse_condition
from ..process.service import ResolvedSettings
from ..types import EntryId, RedisClient, StreamName
from .operations import Action

MAX_EXAMINED = 2_000
"""Maximum number of dead letters of a queue that one page reads, the newest."""
MAX_SHOWN = 50
"""Maximum number of dead letters that one page lists."""
MAX_REPLAYS = 3
"""A dead letter that was replayed this often is left, as by ``dlq replay``."""
_AROUND_EQUALS = re.compile(r"\s*(!?=)\s*")
TEXTS = ("type", "error", "reason", "newer", "older", "since", "where")


@dataclass(frozen=True, slots=True)
class Query:
    """A filter as it stands in an address: so that a view can be sent to a colleague."""

    source: str = ""
    """Empty for all streams and queues of the worker."""
    parked: bool = False
    type: str = ""
    error: str = ""
    reason: str = ""
    newer: str = ""
    older: str = ""
    since: str = ""
    """A time, in UTC unless it has an offset."""
    where: str = ""
    """Conditions ``field=value`` or ``field!=value``, with blanks between."""
    before: str = ""
    """Id behind which the list goes on."""

    @classmethod
    def from_parameters(cls, found: Mapping[str, str]) -> "Query":
        """Read the parameters of an address or the fields of a form."""
        texts = {name: found.get(name, "").strip() for name in (*TEXTS, "source", "before")}
        return cls(parked=found.get("parked", "") in ("1", "true", "on"), **texts)

    def as_parameters(self, **changed: object) -> dict[str, object]:
        """Return the parameters of an address."""
        mine: dict[str, object] = {name: getattr(self, name) for name in (*TEXTS, "source")}
        return mine | {"parked": "1" if self.parked else ""} | changed

    def as_filter(self) -> DeadLetterFilter:
        """Return what the inspector understands.

        Raises:
            PayloadError: a duration, time or condition cannot be read.
        """
        return DeadLetterFilter(
            event_type=self.type,
            error=self.error,
            reason=self.reason or None,
            newer_than=seconds_of(self.newer),
            older_than=seconds_of(self.older),
            since=_moment(self.since),
            where=tuple(map(parse_condition, _AROUND_EQUALS.sub(r"\1", self.where).split())),
        )

    def selected(self, ids: Iterable[str]) -> DeadLetterFilter:
        """Return the filter that selects entries which are given as ``source/id``.

        The source may be left out where the query names it.

        Raises:
            PayloadError: an id without source, which several queues may have.
        """
        entries: list[tuple[StreamName, EntryId]] = []
        for text in ids:
            source, _, entry_id = text.rpartition("/")
            if not (source or self.source):
                msg = f"{text!r} does not say of which source it is: write source/{text}"
                raise PayloadError(msg)
            queue = (keys.parked if self.parked else keys.dlq)(source or self.source)
            entries.append((queue, EntryId(entry_id)))
        return DeadLetterFilter(entries=tuple(entries))

    def targets(self, redis: RedisClient, settings: ResolvedSettings) -> list[DeadLetterQueue]:
        """Return the queues that are meant."""
        return queues_of(redis, settings.sources(), source=self.source, parked=self.parked)


def seconds_of(text: str) -> float | None:
    """Return a duration such as ``2h`` in seconds; None where there is none.

    Raises:
        PayloadError: it is not a duration.
    """
    if not text:
        return None
    try:
        return duration(text)
    except ValueError as exc:
        raise PayloadError(str(exc)) from exc


def _moment(text: str) -> float | None:
    if not text:
        return None
    try:
        return moment(text, UTC)
    except ValueError as exc:
        raise PayloadError(str(exc)) from exc


@dataclass(slots=True)
class Found:
    """What a page shows of the dead letters that match."""

    total: int
    """Number of dead letters in all, matching or not."""
    examined: int
    matching: int
    """Number of those examined that match."""
    groups: list[tuple[str, ErrorGroup]]
    """By error, with the stream or queue; the most frequent first."""
    entries: list[tuple[str, DeadLetterEntry]]
    """The newest, with the stream or queue."""
    more: str
    """Id behind which the list goes on; empty where it does not, or over several queues."""


async def find(redis: RedisClient, settings: ResolvedSettings, query: Query) -> Found:
    """Examine the newest dead letters: bounded, however many there are.

    Raises:
        PayloadError: the query cannot be read.
    """
    wanted, now = query.as_filter(), time.time()
    found = Found(0, 0, 0, [], [], "")
    groups: dict[tuple[str, str], ErrorGroup] = {}
    targets = query.targets(redis, settings)
    for target in targets:
        found.total += await target.size()
        end = f"({query.before}" if query.before and len(targets) == 1 else "+"
        listed = 0
        async for entry in target.newest_entries(MAX_EXAMINED, end=end):
            found.examined += 1
            if not wanted.matches(entry, now):
                continue
            found.matching += 1
            key = target.source, entry.fingerprint
            if key not in groups:
                groups[key] = ErrorGroup.for_error_of(entry)
            groups[key].add(entry)
            if listed < MAX_SHOWN:
                found.entries.append((target.source, entry))
                listed += 1
                if listed == MAX_SHOWN and len(targets) == 1:
                    found.more = entry.entry_id
    found.groups = [(source, group) for (source, _), group in groups.items()]
    found.groups.sort(key=lambda item: -item[1].count)
    found.entries.sort(key=lambda item: -item[1].added_at)
    del found.entries[MAX_SHOWN:]
    return found


async def one(
    redis: RedisClient, source: str, entry_id: str, *, parked: bool
) -> tuple[DeadLetterQueue, DeadLetterEntry] | None:
    """Return one dead letter and its queue; None if it is gone."""
    (queue,) = queues_of(redis, (), source=source, parked=parked)
    async for entry in queue.scan(DeadLetterFilter(entries=((queue.name, EntryId(entry_id)),))):
        return queue, entry
    return None


def change_of(settings: ResolvedSettings, action: Action) -> Change:
    """Return the function that changes one dead letter."""
    return changes.purge if action == "purge" else changes.replay_of(settings, MAX_REPLAYS)
