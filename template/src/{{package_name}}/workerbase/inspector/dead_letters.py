"""Dead-letter queues and parked events: examine, replay and purge what was set aside.

Everything is read in pages, so a queue of a million entries takes no more memory than one of a
hundred. Each change is one atomic step per entry: a replay that is interrupted and repeated
neither loses a message nor sends it twice.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from arq.constants import expires_extra_ms

from ..broker import codec, keys
from ..broker.entries import Order, Page, pages, position
from ..broker.queue_scripts import move_entry, replay_job
from ..engine import failure_record
from ..engine.failure_record import ID
from ..engine.sources import WorkSource
from ..types import RedisClient, StreamName
from .dead_letter import EVERYTHING, DeadLetterEntry, DeadLetterFilter

__all__ = [
    "EVERYTHING",
    "DeadLetterEntry",
    "DeadLetterFilter",
    "DeadLetterQueue",
    "DeadLetterSummary",
    "ErrorGroup",
    "queues_of",
    "summarize",
]

ReplayResult: TypeAlias = Literal["replayed", "gone", "capped", "exists", "unreadable"]
"""``exists``: a job with the id of the dead one waits or runs."""

Loads: TypeAlias = Callable[[bytes], object]
"""A deserializer of jobs."""


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

    @classmethod
    def for_error_of(cls, entry: DeadLetterEntry) -> "ErrorGroup":
        """Return a group of the entry's error that has no entries yet."""
        at, reason = entry.added_at, entry.payload.get(failure_record.REASON, "")
        return cls(entry.fingerprint, entry.event_type, reason, entry.error, 0, at, at, entry.where)

    def add(self, entry: DeadLetterEntry) -> None:
        """Count an entry."""
        at, reason = entry.added_at, entry.payload.get(failure_record.REASON, "")
        self.event_type = _with(self.event_type, entry.event_type)
        self.reason = _with(self.reason, reason)
        self.count += 1
        self.oldest, self.newest = min(self.oldest, at), max(self.newest, at)

    def as_dict(self) -> dict[str, object]:
        """Return the fields, for ``--json``."""
        return asdict(self)


async def _grouped(entries: AsyncIterator[DeadLetterEntry]) -> list[ErrorGroup]:
    """Count entries by error, in whatever order they come; the most frequent error is first."""
    groups: dict[str, ErrorGroup] = {}
    async for entry in entries:
        if entry.fingerprint not in groups:
            groups[entry.fingerprint] = ErrorGroup.for_error_of(entry)
        groups[entry.fingerprint].add(entry)
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
        if not wanted.entries:
            async for page in pages(self._redis, self.name, end=until, order=order):
                yield page
        mine = [entry_id for queue, entry_id in wanted.entries if queue == self.name]
        for entry_id in sorted(mine, key=position, reverse=order == "newest"):
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

    async def newest_entries(self, limit: int, *, end: str = "+") -> AsyncIterator[DeadLetterEntry]:
        """Yield the newest ``limit`` entries, newest first; ``end`` is the highest id."""
        async for page in pages(self._redis, self.name, end=end, limit=limit, order="newest"):
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


def queues_of(
    redis: RedisClient,
    sources: Iterable[WorkSource],
    *,
    source: str = "",
    parked: bool = False,
    group: str | None = None,
) -> list[DeadLetterQueue]:
    """Return the dead-letter queues that are meant, or the streams of parked events.

    Args:
        redis: an open client.
        sources: those of the worker.
        source: one stream or queue, which the worker need not know; empty for all of the worker.
        parked: whether parked events are meant.
        group: the consumer group whose entries are meant: None for that of each source, empty
            for those of all groups.
    """
    known = {one.name: one.group for one in sources if one.parks or not parked}
    make = DeadLetterQueue.parked if parked else DeadLetterQueue.of_source
    names = [source] if source else list(known)
    return [make(redis, name, known.get(name, "") if group is None else group) for name in names]


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
