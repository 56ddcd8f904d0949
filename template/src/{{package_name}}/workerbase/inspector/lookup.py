"""Finds dead letters by ids of any kind, and what a person meant who named none that exists."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..broker import keys
from ..engine import failure_record
from ..types import EntryId, StreamName
from .dead_letters import DeadLetterEntry, DeadLetterFilter, DeadLetterQueue

MAX_KNOWN = 1_000
"""Maximum number of ids that are kept to suggest one of them."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A criterion of a filter that no dead letter meets."""

    criterion: Literal["id", "type", "error"]
    value: str
    known: frozenset[str]
    """What dead letters have instead."""


@dataclass(slots=True)
class _Seen:
    """What a look through the dead letters has found."""

    ids: set[str] = field(default_factory=set[str])
    types: set[str] = field(default_factory=set[str])
    errors: set[str] = field(default_factory=set[str])
    has_error: bool = False

    def add(self, entry: DeadLetterEntry, wanted: DeadLetterFilter) -> None:
        self.types.add(entry.event_type)
        self.errors |= {entry.fingerprint, entry.payload.get(failure_record.ERROR_TYPE, "")}
        self.has_error = self.has_error or entry.has_error(wanted.error)
        if len(self.ids) < MAX_KNOWN:
            self.ids |= entry.ids


async def resolve(
    queues: Sequence[DeadLetterQueue],
    wanted: DeadLetterFilter,
    types: Collection[str] = (),
    on_page: Callable[[int], object] | None = None,
) -> tuple[DeadLetterFilter, list[Unknown]]:
    """Find the entries that the ids of a filter mean, and what no dead letter meets.

    Args:
        queues: where to look.
        wanted: the filter.
        types: event types and functions that exist although no dead letter may have them.
        on_page: called after each page with the number of entries in it.

    Returns:
        The filter with the entries in place of the ids, and each criterion that is unknown:
        then nothing matches the filter, or not all that was meant does.
    """
    left = {_entry_id(given): given for given in wanted.ids}
    found = await _existing(queues, left)
    for _, entry_id in found:
        left.pop(entry_id, None)
    seen = _Seen(has_error=not wanted.error)
    known_type = not wanted.event_type or wanted.event_type in types

    def complete() -> bool:
        return seen.has_error and (known_type or wanted.event_type in seen.types)

    missing = dict(left)
    for queue in queues:
        if not left and complete():
            break
        async for entry in queue.scan(on_page=on_page):
            seen.add(entry, wanted)
            for name in left.keys() & entry.ids:
                found.add((queue.name, entry.entry_id))
                missing.pop(name, None)
            if not left and complete():
                break
    unknown = [Unknown("id", given, frozenset(seen.ids)) for given in missing.values()]
    if not known_type and wanted.event_type not in seen.types:
        unknown.append(Unknown("type", wanted.event_type, frozenset({*types, *seen.types} - {""})))
    if not seen.has_error:
        unknown.append(Unknown("error", wanted.error, frozenset(seen.errors - {""})))
    return replace(wanted, ids=frozenset(), entries=tuple(found)), unknown


async def _existing(
    queues: Sequence[DeadLetterQueue], ids: Collection[str]
) -> set[tuple[StreamName, EntryId]]:
    """Return the dead letters whose own ids are among these; they are read directly."""
    own = [EntryId(name) for name in ids if re.fullmatch(r"\d{1,19}-\d{1,19}", name)]
    exactly = DeadLetterFilter(
        entries=tuple((q.name, entry_id) for q in queues for entry_id in own)
    )
    if not own:
        return set()
    return {(q.name, entry.entry_id) for q in queues async for entry in q.scan(exactly)}


def _entry_id(given: str) -> str:
    """Return the entry that a requeue job names in its id; any other id as it is."""
    job = keys.REQUEUE_JOB_ID.fullmatch(given)
    return job["entry_id"] if job else given
