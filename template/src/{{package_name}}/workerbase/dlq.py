# Owned by arq-worker-template: `copier update` overwrites edits; call these functions instead.
"""Look at, replay and purge messages that were set aside: the dead-letter queue as a tool.

Everything is read in pages, so a queue of a million entries takes no more memory than one of a
hundred. Each change is one atomic step per entry: a replay that is interrupted and repeated
neither loses a message nor sends it twice.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, cast

from . import deadletter, jobqueue, keys, scripts, wire
from .events import DATA, ID, TYPE
from .types import EntryId, Payload, RedisClient, StreamName

PAGE = 50
"""A letter may have megabytes, and so many of them are in memory at a time."""

ReplayResult: TypeAlias = Literal["replayed", "gone", "capped", "exists", "unreadable"]
"""``exists``: a job with the id of the dead one waits or runs."""


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """One message in a dead-letter queue."""

    entry_id: EntryId
    payload: Payload

    @property
    def event_type(self) -> str:
        """Type of the event, empty if the message had none."""
        return self.payload.get(TYPE, "")

    @property
    def error(self) -> str:
        """Type and text of the last error."""
        kind = self.payload.get(deadletter.ERROR_TYPE, "?")
        return f"{kind}: {self.payload.get(deadletter.ERROR, '')}"

    @property
    def fingerprint(self) -> str:
        """Short name that entries with the same error share."""
        return deadletter.fingerprint(self.payload)

    @property
    def added_at(self) -> float:
        """Unix time at which it was set aside, in seconds."""
        return int(self.entry_id.partition("-")[0]) / 1000

    @property
    def is_job(self) -> bool:
        """Whether it is a job, and not a message of a stream."""
        return deadletter.JOB in self.payload

    @property
    def replays(self) -> int:
        """How often the message was replayed."""
        return deadletter.number(self.payload.get(deadletter.REPLAYS))

    @property
    def history(self) -> list[object]:
        """The failures of a job, newest last; messages keep only their last."""
        return cast("list[object]", json.loads(self.payload.get(deadletter.HISTORY, "[]")))

    @property
    def other_fields(self) -> Payload:
        """What a message has that no event of ours has, such as one of another publisher."""
        ours = {TYPE, DATA, *(n for n in self.payload if n.startswith("_") and n != wire.REST)}
        return {name: value for name, value in self.payload.items() if name not in ours}

    def as_dict(self) -> dict[str, object]:
        """Return what there is to say, for ``--json``."""
        return {
            "id": self.entry_id,
            "message_id": self.payload.get(ID, ""),
            "type": self.event_type,
            "reason": self.payload.get(deadletter.REASON, ""),
            "error": self.error,
            "fingerprint": self.fingerprint,
            "failed_at": self.payload.get(deadletter.FAILED_AT, ""),
            "first_failed_at": self.payload.get(deadletter.FIRST_FAILED_AT, ""),
            "attempts": deadletter.number(self.payload.get(deadletter.ATTEMPTS)),
            "replays": self.replays,
            "original_stream": self.payload.get(deadletter.ORIGINAL_STREAM, ""),
            "original_id": self.payload.get(deadletter.ORIGINAL_ID, ""),
            "data": self.payload.get(DATA, ""),
            "fields": self.other_fields,
            "history": self.history,
            "traceback": self.payload.get(deadletter.TRACEBACK, ""),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters a command means; what is not set matches all."""

    event_type: str = ""
    error: str = ""
    """Part of the error text, or a fingerprint."""
    reason: str | None = None
    older_than: float | None = None
    """Set aside longer ago than this, in seconds."""
    newer_than: float | None = None
    entry_id: str = ""

    def matches(self, entry: DeadEntry, now: float) -> bool:
        """Whether ``entry`` is meant; ``now`` is Unix time."""
        age = now - entry.added_at
        return (
            (not self.entry_id or entry.entry_id == self.entry_id)
            and (not self.event_type or entry.event_type == self.event_type)
            and (not self.reason or entry.payload.get(deadletter.REASON) == self.reason)
            and (
                not self.error
                or self.error == entry.fingerprint
                or self.error.lower() in entry.error.lower()
            )
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
        )


@dataclass(slots=True)
class Group:
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


async def _grouped(entries: AsyncIterator[DeadEntry]) -> list[Group]:
    """Count entries, in whatever order they come, by error, the most frequent first."""
    groups: dict[str, Group] = {}
    async for entry in entries:
        key, at = entry.fingerprint, entry.added_at
        group = groups.get(key)
        if group is None:
            reason = entry.payload.get(deadletter.REASON, "")
            group = Group(key, entry.event_type, reason, entry.error, oldest=at, newest=at)
            groups[key] = group
        group.count += 1
        group.oldest, group.newest = min(group.oldest, at), max(group.newest, at)
    return sorted(groups.values(), key=lambda group: -group.count)


class SetAside:
    """A stream of messages that were set aside: the DLQ or the parked events of a stream."""

    def __init__(self, redis: RedisClient, name: StreamName) -> None:
        self._redis = redis
        self.name = name

    @classmethod
    def dlq(cls, redis: RedisClient, stream: StreamName) -> "SetAside":
        """Return the dead-letter queue of ``stream``."""
        return cls(redis, keys.dlq(stream))

    @property
    def stream(self) -> StreamName:
        """The stream that replays go back to."""
        return self.name.removesuffix(keys.DLQ_SUFFIX).removesuffix(keys.PARKED_SUFFIX)

    async def size(self) -> int:
        """Return the number of entries."""
        return int(await self._redis.execute_command("XLEN", self.name))

    async def newest(self) -> str:
        """Return the id of the newest entry, empty if there is none."""
        ids = [entry.entry_id async for entry in self.newest_entries(1)]
        return ids[0] if ids else ""

    async def scan(
        self,
        wanted: Filter | None = None,
        *,
        after: str = "",
        until: str = "+",
        most: int = sys.maxsize,
        looked: Callable[[int], object] | None = None,
    ) -> AsyncIterator[DeadEntry]:
        """Yield the entries, oldest first.

        Args:
            wanted: yield only these.
            after: start behind this id.
            until: stop behind this id; nothing at all if it is empty.
            most: look at no more than so many entries, matching or not.
            looked: called after each page with the number of entries in it.
        """
        now = time.time()
        start = f"({after}" if after else "-"
        if wanted is not None and wanted.entry_id and until:
            start = until = wanted.entry_id
        async for page in self._pages("XRANGE", start, until, most if until else 0):
            for entry in page:
                if wanted is None or wanted.matches(entry, now):
                    yield entry
            if looked is not None:
                looked(len(page))

    async def _pages(
        self, command: str, start: str, end: str, most: int
    ) -> AsyncIterator[list[DeadEntry]]:
        while most > 0:
            count = min(PAGE, most)
            # redis-py decodes this reply to (id, {name: value}) pairs.
            rows: list[tuple[bytes, dict[bytes, bytes]]] = await self._redis.execute_command(
                command, self.name, start, end, "COUNT", count
            )
            page = [
                DeadEntry(
                    EntryId(wire.text(entry_id)),
                    {wire.text(name): wire.text(value) for name, value in fields.items()},
                )
                for entry_id, fields in rows or ()
            ]
            yield page
            if len(page) < count:
                return
            most -= count
            start = f"({page[-1].entry_id}"

    async def groups(
        self, wanted: Filter | None = None, looked: Callable[[int], object] | None = None
    ) -> list[Group]:
        """Count the entries by error, the most frequent first."""
        return await _grouped(self.scan(wanted, looked=looked))

    async def newest_groups(self, most: int) -> list[Group]:
        """The same for the newest ``most`` entries: bounded, however many there are."""
        return await _grouped(self.newest_entries(most))

    async def newest_entries(self, most: int) -> AsyncIterator[DeadEntry]:
        """Yield the newest ``most`` entries, newest first."""
        async for page in self._pages("XREVRANGE", "+", "-", most):
            for entry in page:
                yield entry

    def left(
        self, entry: DeadEntry, max_replays: int, loads: Callable[[bytes], object] = wire.loads
    ) -> Literal["capped", "unreadable"] | None:
        """Say why an entry is not to be replayed, if so: it went too often, or is no readable job.

        A job that ``loads``, the worker's deserializer, cannot read would come back at once, and
        without its history, which counts the replays.
        """
        if entry.replays >= max_replays:
            return "capped"
        if entry.is_job:
            try:
                loads(wire.encode(entry.payload[deadletter.JOB]))
            except Exception:  # whatever a deserializer of the project raises
                return "unreadable"
        return None

    async def replay(
        self, entry: DeadEntry, max_replays: int, loads: Callable[[bytes], object] = wire.loads
    ) -> ReplayResult:
        """Send it back to its stream or queue with all its tries, unless it is to be `left`."""
        if left := self.left(entry, max_replays, loads):
            return left
        if entry.is_job:
            job = wire.encode(entry.payload[deadletter.JOB])
            done = await jobqueue.replay(
                self._redis, self.stream, entry.entry_id, entry.payload[ID], job
            )
            if done < 0:
                return "exists"
            return "replayed" if done else "gone"
        return await self._move(entry, deadletter.replayed(entry.payload))

    async def unpark(self, entry: DeadEntry) -> bool:
        """Send a parked event back to its stream as it was."""
        return await self._move(entry, deadletter.back_to_work(entry.payload)) == "replayed"

    async def _move(self, entry: DeadEntry, fields: Payload) -> ReplayResult:
        moved = await scripts.replay(
            self._redis, [self.name, self.stream], [entry.entry_id, *wire.flatten(fields)]
        )
        return "replayed" if moved else "gone"

    async def purge(self, entry: DeadEntry) -> bool:
        """Delete an entry for good; false if it was gone already."""
        return bool(await self._redis.execute_command("XDEL", self.name, entry.entry_id))
