"""Dead-letter queues and parked events: examine, replay and purge what was set aside.

Everything is read in pages, so a queue of a million entries takes no more memory than one of a
hundred. Each change is one atomic step per entry: a replay that is interrupted and repeated
neither loses a message nor sends it twice.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, cast

from arq.constants import expires_extra_ms

from ..broker import codec, keys
from ..broker.entries import Order, Page, pages, position
from ..broker.queue_scripts import move_entry, replay_job
from ..engine import failure_record, redact
from ..engine.failure_record import DATA, ID, TYPE
from ..types import EntryId, Payload, RedisClient, StreamName
from . import matching

ReplayResult: TypeAlias = Literal["replayed", "gone", "capped", "exists", "unreadable"]
"""``exists``: a job with the id of the dead one waits or runs."""

Loads: TypeAlias = Callable[[bytes], object]
"""A deserializer of jobs."""


@dataclass(frozen=True, slots=True)
class DeadLetterEntry:
    """One message in a dead-letter queue."""

    entry_id: EntryId
    payload: Payload

    @property
    def event_type(self) -> str:
        """Event type or function; empty if the message has none."""
        return self.payload.get(TYPE, "")

    @property
    def error(self) -> str:
        """Type and text of the last error, without secrets."""
        kind = self.payload.get(failure_record.ERROR_TYPE, "?")
        return redact.text(f"{kind}: {self.payload.get(failure_record.ERROR, '')}")

    @property
    def where(self) -> str:
        """Module and function of the project in which the error was raised; empty if none."""
        return failure_record.where(self.payload)

    @property
    def group(self) -> str:
        """The consumer group that set it aside; empty if it names none."""
        return self.payload.get(failure_record.GROUP, "")

    @property
    def fingerprint(self) -> str:
        """Short id that entries with the same error share."""
        return failure_record.fingerprint(self.payload)

    def has_error(self, wanted: str) -> bool:
        """Whether this is part of the error's text, or its id."""
        return wanted.lower() in self.error.lower() or wanted == self.fingerprint

    @property
    def ids(self) -> frozenset[str]:
        """All ids under which logs, traces and contexts name it: of the message, its entries."""
        return matching.ids_of(self.entry_id, self.payload)

    @property
    def added_at(self) -> float:
        """Unix time at which it was set aside, in seconds."""
        return int(self.entry_id.partition("-")[0]) / 1000

    @property
    def is_job(self) -> bool:
        """Whether it is a job rather than a message of a stream."""
        return failure_record.JOB in self.payload

    @property
    def replays(self) -> int:
        """How often it was replayed."""
        return failure_record.number(self.payload.get(failure_record.REPLAYS))

    @property
    def history(self) -> list[object]:
        """The failures of a job, newest last; messages keep only their last."""
        written = self.payload.get(failure_record.HISTORY, "[]")
        try:
            found: object = json.loads(written)
        except (ValueError, RecursionError):
            found = written
        # What is not a history is shown as it is.
        return cast("list[object]", found) if isinstance(found, list) else [written]

    def _count(self, name: str) -> int | str:
        """Return a count, or the text that stands in its place."""
        written = self.payload.get(name, "")
        return written if written and not failure_record.is_count(written) else int(written or 0)

    @property
    def other_fields(self) -> Payload:
        """Fields of a message that no event of ours has."""
        ours = {TYPE, DATA, *(n for n in self.payload if n.startswith("_") and n != codec.REST)}
        return {name: value for name, value in self.payload.items() if name not in ours}

    def as_dict(self) -> dict[str, object]:
        """Return all of it, without secrets, to be shown."""
        shown = {
            "id": self.entry_id,
            "message_id": self.payload.get(ID, ""),
            "type": self.event_type,
            "reason": self.payload.get(failure_record.REASON, ""),
            "error": self.error,
            "where": self.where,
            "fingerprint": self.fingerprint,
            "failed_at": self.payload.get(failure_record.FAILED_AT, ""),
            "first_failed_at": self.payload.get(failure_record.FIRST_FAILED_AT, ""),
            "attempts": self._count(failure_record.ATTEMPTS),
            "deliveries": self._count(failure_record.DELIVERIES),
            "group": self.group,
            "consumer": self.payload.get(failure_record.CONSUMER, ""),
            "replays": self._count(failure_record.REPLAYS),
            "original_stream": self.payload.get(failure_record.ORIGINAL_STREAM, ""),
            "original_id": self.payload.get(failure_record.ORIGINAL_ID, ""),
            "data": "",
            "fields": self.other_fields,
            "history": self.history,
            "traceback": self.payload.get(failure_record.TRACEBACK, ""),
        }
        data = redact.payload(self.payload.get(DATA, ""))
        return {**redact.fields(shown, redact.PAYLOAD_KEYS, sys.maxsize), "data": data}


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters; what is not set matches all."""

    event_type: str = ""
    error: str = ""
    """Part of the error text, or an error id."""
    reason: str | None = None
    older_than: float | None = None
    """Set aside longer ago than this, in seconds."""
    newer_than: float | None = None
    since: float | None = None
    """Set aside at this Unix time, in seconds, or later; and before ``until``."""
    until: float | None = None
    where: tuple[tuple[str, str], ...] = ()
    """Fields of the payload and the values that all of them must have (`matching.meets`)."""
    ids: frozenset[str] = frozenset()
    """Any of these ids, see `DeadLetterEntry.ids`."""
    entry_ids: tuple[EntryId, ...] = ()
    """Only these entries, which are read directly; `lookup.resolve` finds them by ``ids``."""

    def matches(self, entry: DeadLetterEntry, now: float) -> bool:
        """Whether ``entry`` is selected; ``now`` is Unix time."""
        age = now - entry.added_at
        return (
            (not self.ids or not self.ids.isdisjoint(entry.ids))
            and (not self.event_type or entry.event_type == self.event_type)
            and (not self.reason or entry.payload.get(failure_record.REASON) == self.reason)
            and entry.has_error(self.error)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and (self.since is None or entry.added_at >= self.since)
            and (self.until is None or entry.added_at < self.until)
            and all(matching.meets(entry.payload, *condition) for condition in self.where)
        )


EVERYTHING = DeadLetterFilter()


@dataclass(slots=True)
class ErrorGroup:
    """Dead letters with the same error: its type, and where it was raised."""

    fingerprint: str
    event_type: str
    """Event types or functions that failed with it, separated by commas; so are the reasons."""
    reason: str
    error: str
    """One of the errors, as an example of their texts."""
    count: int = 0
    oldest: float = 0.0
    """Unix time, in seconds; so is ``newest``."""
    newest: float = 0.0
    where: str = ""
    """Module and function of the project in which they were raised; empty if none took part."""

    def as_dict(self) -> dict[str, object]:
        """Return the fields, for ``--json``."""
        return asdict(self)


async def _grouped(entries: AsyncIterator[DeadLetterEntry]) -> list[ErrorGroup]:
    """Count entries by error, in whatever order they come; the most frequent error is first."""
    groups: dict[str, ErrorGroup] = {}
    async for entry in entries:
        key, at = entry.fingerprint, entry.added_at
        reason = entry.payload.get(failure_record.REASON, "")
        group = groups.get(key)
        if group is None:
            group = groups[key] = ErrorGroup(
                key, entry.event_type, reason, entry.error, 0, at, at, entry.where
            )
        group.event_type = _with(group.event_type, entry.event_type)
        group.reason = _with(group.reason, reason)
        group.count += 1
        group.oldest, group.newest = min(group.oldest, at), max(group.newest, at)
    return sorted(groups.values(), key=lambda group: -group.count)


def _with(listed: str, name: str) -> str:
    """Add a name to a list of names."""
    return listed if name in listed.split(", ") else f"{listed}, {name}"


class DeadLetterQueue:
    """A stream of messages or jobs that were set aside: dead letters, or parked events.

    Args:
        redis: an open client.
        name: of the stream that holds them.
        group: the consumer group whose entries are meant, beside those that name none; empty for
            those of all groups.
    """

    def __init__(self, redis: RedisClient, name: StreamName, group: str = "") -> None:
        self._redis = redis
        self._group = group
        self.name = name

    @classmethod
    def of_source(
        cls, redis: RedisClient, source: StreamName, group: str = ""
    ) -> "DeadLetterQueue":
        """Return the dead letters of a stream or queue."""
        return cls(redis, keys.dlq(source), group)

    @classmethod
    def parked(cls, redis: RedisClient, stream: StreamName, group: str = "") -> "DeadLetterQueue":
        """Return the parked events of a stream."""
        return cls(redis, keys.parked(stream), group)

    @property
    def source(self) -> StreamName:
        """The stream or queue that replays go back to."""
        return self.name.removesuffix(keys.DLQ_SUFFIX).removesuffix(keys.PARKED_SUFFIX)

    @property
    def is_parked(self) -> bool:
        """Whether it holds parked events rather than dead letters."""
        return self.name.endswith(keys.PARKED_SUFFIX)

    async def size(self) -> int:
        """Return the number of entries, those of all groups."""
        return int(await self._redis.execute_command("XLEN", self.name))

    async def newest(self) -> str:
        """Return the id of the newest entry; empty if there is none."""
        ids = [
            i
            async for page in pages(self._redis, self.name, limit=1, order="newest")
            for i, _ in page
        ]
        return ids[0] if ids else ""

    def _entries(self, page: Page) -> Iterable[DeadLetterEntry]:
        entries = (DeadLetterEntry(entry_id, payload) for entry_id, payload in page)
        return (e for e in entries if not self._group or e.group in {"", self._group})

    async def scan(
        self,
        wanted: DeadLetterFilter | None = None,
        *,
        until: str = "+",
        order: Order = "oldest",
        on_page: Callable[[int], object] | None = None,
    ) -> AsyncIterator[DeadLetterEntry]:
        """Yield the entries.

        Args:
            wanted: yield only these.
            until: leave out what came after this id; nothing at all if it is empty.
            order: which come first.
            on_page: called after each page with the number of entries in it.
        """
        now = time.time()
        if not until:
            return
        async for page in self._pages(wanted or EVERYTHING, until, order):
            for entry in self._entries(page):
                if wanted is None or wanted.matches(entry, now):
                    yield entry
            if on_page is not None:
                on_page(len(page))

    async def _pages(
        self, wanted: DeadLetterFilter, until: str, order: Order
    ) -> AsyncIterator[Page]:
        if not wanted.entry_ids:
            async for page in pages(self._redis, self.name, end=until, order=order):
                yield page
        for entry_id in sorted(wanted.entry_ids, key=position, reverse=order == "newest"):
            async for page in pages(self._redis, self.name, start=entry_id, end=entry_id):
                yield page

    async def groups(
        self,
        wanted: DeadLetterFilter | None = None,
        on_page: Callable[[int], object] | None = None,
    ) -> list[ErrorGroup]:
        """Count the entries by error, the most frequent first."""
        return await _grouped(self.scan(wanted, on_page=on_page))

    async def newest_groups(self, limit: int) -> list[ErrorGroup]:
        """Count the newest ``limit`` entries by error: bounded, however many there are."""
        return await _grouped(self.newest_entries(limit))

    async def newest_entries(self, limit: int) -> AsyncIterator[DeadLetterEntry]:
        """Yield the newest ``limit`` entries, newest first."""
        async for page in pages(self._redis, self.name, limit=limit, order="newest"):
            for entry in self._entries(page):
                yield entry

    def replay_refusal(
        self, entry: DeadLetterEntry, max_replays: int, loads: Loads = codec.loads
    ) -> Literal["capped", "unreadable"] | None:
        """Return why an entry must not be replayed, None if it may be.

        It was replayed ``max_replays`` times, or is a job that ``loads``, the worker's
        deserializer, cannot read: that would come back at once, and without its history, which
        counts the replays.
        """
        if entry.replays >= max_replays:
            return "capped"
        if entry.is_job:
            if not entry.payload.get(ID):
                return "unreadable"
            try:
                loads(codec.encode(entry.payload[failure_record.JOB]))
            except Exception:  # whatever a deserializer of the project raises
                return "unreadable"
        return None

    async def replay(
        self, entry: DeadLetterEntry, max_replays: int, loads: Loads = codec.loads
    ) -> ReplayResult:
        """Send an entry back to its stream or queue with all its attempts, unless refused."""
        if refusal := self.replay_refusal(entry, max_replays, loads):
            return refusal
        if entry.is_job:
            return await replay_job(
                self._redis,
                queue=self.source,
                entry_id=entry.entry_id,
                job_id=entry.payload[ID],
                job=codec.encode(entry.payload[failure_record.JOB]),
                expires_ms=expires_extra_ms,
            )
        moved = await move_entry(
            self._redis,
            source=self.name,
            target=self.source,
            entry_id=entry.entry_id,
            fields=codec.encode_fields(failure_record.replayed(entry.payload)),
        )
        return "replayed" if moved else "gone"

    async def purge(self, entry: DeadLetterEntry) -> bool:
        """Delete an entry for good; false if it was gone already."""
        return bool(await self._redis.execute_command("XDEL", self.name, entry.entry_id))
