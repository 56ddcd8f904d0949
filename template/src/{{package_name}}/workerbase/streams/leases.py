"""The lease: a pending entry belongs to its consumer until its idle time reaches the lease timeout.

Redis keeps the idle time of every pending entry. The owner resets it well before the lease ends,
whether the entry is being handled or still waits; anybody may reclaim an entry whose lease ended.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..broker import codec, keys
from ..broker.scripts import Script
from ..leasing.terms import IDLE_SHARE
from ..types import EntryId, RedisArg, RedisClient, StreamName
from .entry import Delivery, mean_size
from .suspects import Expired, Note

MAX_EXPIRED = 1000
"""Maximum number of expired entries that are looked at together."""
NOTES_TTL_MS = 86_400_000
"""How long the notes on suspects are kept after the last of them, in milliseconds."""
RELEASED_IDLE_MS = 86_400_000
"""Idle time that a released entry is given, in milliseconds: longer than any lease."""

_RENEW = Script.load(__name__, "renew")
_RECLAIM = Script.load(__name__, "reclaim")
_START = Script.load(__name__, "start")
_RESTORE = Script.load(__name__, "restore")
_RELEASE = Script.load(__name__, "release")
_REMOVE_SELF = Script.load(__name__, "remove_self")


Start: TypeAlias = tuple[EntryId, int, Note]
"""An entry, its number of deliveries, and what is to be remembered."""


@dataclass(frozen=True, slots=True)
class StreamLeases:
    """The leases that one consumer holds on one stream."""

    redis: RedisClient
    stream: StreamName
    group: str
    consumer: str
    """Unique name of the consumer."""
    lease_timeout: float
    """Time within which the entries of a dead consumer are reclaimed, in seconds."""

    @property
    def min_idle_ms(self) -> int:
        """Idle time from which an entry counts as abandoned, in milliseconds."""
        return int(self.lease_timeout * IDLE_SHARE * 1000)

    async def renew(self, entry_ids: Sequence[str]) -> list[str]:
        """Renew the leases of ``entry_ids``; return those that other consumers have reclaimed."""
        lost = await _RENEW(self.redis, [self.stream], [self.group, self.consumer, *entry_ids])
        return [codec.decode(entry_id) for entry_id in lost]

    async def restore(self, entry_ids: Sequence[str]) -> dict[str, bool]:
        """Own those of ``entry_ids`` again that nobody owns.

        Returns:
            These, and whether they still exist: an entry that was trimmed meanwhile has no owner.
        """
        restored = await _RESTORE(
            self.redis, [self.stream], [self.group, self.consumer, *entry_ids]
        )
        return {codec.decode(entry_id): bool(exists) for entry_id, exists in restored}

    async def expired(self, max_deliveries: int) -> list[Expired]:
        """Return the oldest entries whose leases have ended, up to `MAX_EXPIRED`.

        ``max_deliveries`` is the number of deliveries from which an entry is poison.
        """
        rows = await self.redis.execute_command(
            "XPENDING", self.stream, self.group, "IDLE", self.min_idle_ms, "-", "+", MAX_EXPIRED,
            parse_detail=True,
        )  # fmt: skip
        if not rows:
            return []
        ids = [EntryId(codec.decode(row["message_id"])) for row in rows]
        notes = await self.redis.execute_command("HMGET", self._notes, *ids)
        return [
            Expired(
                entry_id,
                row["times_delivered"],
                max_deliveries,
                Note.parse(note),
                is_released=row["time_since_delivered"] >= RELEASED_IDLE_MS,
            )
            for entry_id, row, note in zip(ids, rows, notes, strict=True)
        ]

    async def reclaim(self, entry_ids: Iterable[EntryId]) -> list[Delivery]:
        """Reclaim entries whose leases have ended.

        No delivery is counted yet (`start` does that), so an entry that only waits in this process
        is not suspected of killing its worker.
        """
        reply = await _RECLAIM(
            self.redis,
            [self.stream],
            [self.group, self.consumer, self.min_idle_ms, *entry_ids],
        )
        return [
            Delivery(
                self.stream,
                EntryId(codec.decode(entry_id)),
                fields or [],
                mean_size([fields or []]),
                deliveries,
                deleted=fields is None,
                counted=False,
            )
            for entry_id, deliveries, fields in reply
        ]

    async def start(self, *starts: Start) -> bool:
        """Set the numbers of deliveries of entries, and what is remembered of their starts.

        Returns:
            Whether the last of them is still held.
        """
        args: list[RedisArg] = [self.group, self.consumer, NOTES_TTL_MS]
        for entry_id, deliveries, note in starts:
            args += [entry_id, deliveries, str(note)]
        return bool(await _START(self.redis, [self.stream, self._notes], args))

    @property
    def _notes(self) -> str:
        return keys.suspects(self.stream, self.group)

    async def release_all(
        self, keep: Collection[str] = (), as_counted: Collection[str] = ()
    ) -> int:
        """Let other consumers reclaim all entries but ``keep`` at once; return how many.

        The delivery to this consumer is not counted, except that ``as_counted`` keep their counts.
        """
        head: list[RedisArg] = [self.group, self.consumer, RELEASED_IDLE_MS, len(keep)]
        return int(await _RELEASE(self.redis, [self.stream], [*head, *keep, *as_counted]))

    async def remove_self(self) -> bool:
        """Remove the consumer from the group, unless it still holds entries."""
        return bool(await _REMOVE_SELF(self.redis, [self.stream], [self.group, self.consumer]))
