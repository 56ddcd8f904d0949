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
from arq.utils import timestamp_ms

from ..broker import codec, keys
from ..broker.entries import Page, pages
from ..broker.queue_scripts import move_entry, replay_job
from ..engine import failure_record
from ..engine.failure_record import DATA, ID, TYPE
from ..types import EntryId, Payload, RedisClient, StreamName

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
        """Type and text of the last error."""
        kind = self.payload.get(failure_record.ERROR_TYPE, "?")
        return f"{kind}: {self.payload.get(failure_record.ERROR, '')}"

    @property
    def fingerprint(self) -> str:
        """Short id that entries with the same error share."""
        return failure_record.fingerprint(self.payload)

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
        """Return all of it, for ``--json``."""
        return {
            "id": self.entry_id,
            "message_id": self.payload.get(ID, ""),
            "type": self.event_type,
            "reason": self.payload.get(failure_record.REASON, ""),
            "error": self.error,
            "fingerprint": self.fingerprint,
            "failed_at": self.payload.get(failure_record.FAILED_AT, ""),
            "first_failed_at": self.payload.get(failure_record.FIRST_FAILED_AT, ""),
            "attempts": self._count(failure_record.ATTEMPTS),
            "replays": self._count(failure_record.REPLAYS),
            "original_stream": self.payload.get(failure_record.ORIGINAL_STREAM, ""),
            "original_id": self.payload.get(failure_record.ORIGINAL_ID, ""),
            "data": self.payload.get(DATA, ""),
            "fields": self.other_fields,
            "history": self.history,
            "traceback": self.payload.get(failure_record.TRACEBACK, ""),
        }


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
    entry_id: str = ""

    def matches(self, entry: DeadLetterEntry, now: float) -> bool:
        """Whether ``entry`` is selected; ``now`` is Unix time."""
        age = now - entry.added_at
        return (
            (not self.entry_id or entry.entry_id == self.entry_id)
            and (not self.event_type or entry.event_type == self.event_type)
            and (not self.reason or entry.payload.get(failure_record.REASON) == self.reason)
            and (
                not self.error
                or self.error == entry.fingerprint
                or self.error.lower() in entry.error.lower()
            )
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
        )


@dataclass(slots=True)
class ErrorGroup:
    """Dead letters with the same error."""

    fingerprint: str
    event_type: str
    reason: str
    error: str
    count: int = 0
    oldest: float = 0.0
    """Unix time, in seconds; so is ``newest``."""
    newest: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the fields, for ``--json``."""
        return asdict(self)


async def _grouped(entries: AsyncIterator[DeadLetterEntry]) -> list[ErrorGroup]:
    """Count entries by error, in whatever order they come; the most frequent error is first."""
    groups: dict[str, ErrorGroup] = {}
    async for entry in entries:
        key, at = entry.fingerprint, entry.added_at
        group = groups.get(key)
        if group is None:
            reason = entry.payload.get(failure_record.REASON, "")
            group = ErrorGroup(key, entry.event_type, reason, entry.error, oldest=at, newest=at)
            groups[key] = group
        group.count += 1
        group.oldest, group.newest = min(group.oldest, at), max(group.newest, at)
    return sorted(groups.values(), key=lambda group: -group.count)


def _entries(page: Page) -> Iterable[DeadLetterEntry]:
    return (DeadLetterEntry(entry_id, payload) for entry_id, payload in page)


class DeadLetterQueue:
    """A stream of messages or jobs that were set aside: dead letters, or parked events.

    Args:
        redis: an open client.
        name: of the stream that holds them.
    """

    def __init__(self, redis: RedisClient, name: StreamName) -> None:
        self._redis = redis
        self.name = name

    @classmethod
    def of_source(cls, redis: RedisClient, source: StreamName) -> "DeadLetterQueue":
        """Return the dead letters of a stream or queue."""
        return cls(redis, keys.dlq(source))

    @classmethod
    def parked(cls, redis: RedisClient, stream: StreamName) -> "DeadLetterQueue":
        """Return the parked events of a stream."""
        return cls(redis, keys.parked(stream))

    @property
    def source(self) -> StreamName:
        """The stream or queue that replays go back to."""
        return self.name.removesuffix(keys.DLQ_SUFFIX).removesuffix(keys.PARKED_SUFFIX)

    async def size(self) -> int:
        """Return the number of entries."""
        return int(await self._redis.execute_command("XLEN", self.name))

    async def newest(self) -> str:
        """Return the id of the newest entry; empty if there is none."""
        ids = [entry.entry_id async for entry in self.newest_entries(1)]
        return ids[0] if ids else ""

    async def scan(
        self,
        wanted: DeadLetterFilter | None = None,
        *,
        until: str = "+",
        on_page: Callable[[int], object] | None = None,
    ) -> AsyncIterator[DeadLetterEntry]:
        """Yield the entries, oldest first.

        Args:
            wanted: yield only these.
            until: stop behind this id; nothing at all if it is empty.
            on_page: called after each page with the number of entries in it.
        """
        now = time.time()
        limit = sys.maxsize if until else 0
        start = "-"
        if wanted is not None and wanted.entry_id and until:
            start = until = wanted.entry_id
        async for page in pages(self._redis, self.name, start=start, end=until, limit=limit):
            for entry in _entries(page):
                if wanted is None or wanted.matches(entry, now):
                    yield entry
            if on_page is not None:
                on_page(len(page))

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
            for entry in _entries(page):
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
                due_ms=timestamp_ms(),
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


@dataclass(frozen=True, slots=True)
class DeadLetterSummary:
    """A dead-letter queue by error."""

    source: StreamName
    total: int
    newest: str
    """Id of the newest entry; together with the same length it means that nothing has changed."""
    examined: int
    """Number of entries in the groups: the newest ones."""
    groups: tuple[ErrorGroup, ...]


async def summarize(
    redis: RedisClient,
    totals: Iterable[tuple[StreamName, int]],
    limit: int,
    before: Iterable[DeadLetterSummary] = (),
) -> tuple[DeadLetterSummary, ...]:
    """Group the dead letters of several sources by error.

    Args:
        redis: an open client.
        totals: the sources, and the number of their dead letters.
        limit: number of entries of a source that are read, the newest.
        before: the last summaries; a queue that has not changed since is not read again.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    known = {summary.source: summary for summary in before}
    return tuple(
        [
            await _summarize(redis, source, total, limit, known.get(source))
            for source, total in totals
        ]
    )


async def _summarize(
    redis: RedisClient,
    source: StreamName,
    total: int,
    limit: int,
    before: DeadLetterSummary | None,
) -> DeadLetterSummary:
    queue = DeadLetterQueue.of_source(redis, source)
    newest = await queue.newest() if total else ""
    if before and (before.total, before.newest) == (total, newest):
        return before
    groups = await queue.newest_groups(limit) if total else []
    examined = sum(group.count for group in groups)
    return DeadLetterSummary(source, total, newest, examined, tuple(groups))
