"""The lease: a pending entry belongs to its consumer until its idle time reaches the lease timeout.

Redis keeps the idle time of every pending entry. The owner resets it well before the lease ends,
whether the entry is being handled or still waits; anybody may reclaim an entry whose lease ended.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..broker import codec
from ..broker.scripts import Script
from ..leasing.terms import IDLE_SHARE
from ..types import EntryId, RedisArg, RedisClient, StreamName
from .entry import Delivery

RELEASED_IDLE_MS = 86_400_000
"""Idle time that a released entry is given, in milliseconds: longer than any lease."""

_RENEW = Script.load(__name__, "renew")
_RECLAIM = Script.load(__name__, "reclaim")
_COUNT_DELIVERY = Script.load(__name__, "count_delivery")
_RELEASE = Script.load(__name__, "release")
_REMOVE_SELF = Script.load(__name__, "remove_self")


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

    async def any_expired(self) -> bool:
        """Return whether there is an entry to `reclaim`, with one cheap command."""
        rows = await self.redis.execute_command(
            "XPENDING", self.stream, self.group, "IDLE", self.min_idle_ms, "-", "+", 1,
            parse_detail=True,
        )  # fmt: skip
        return bool(rows)

    async def reclaim(self, limit: int = 1) -> list[Delivery]:
        """Reclaim the oldest entries whose leases have ended, up to ``limit``.

        No delivery is counted yet (`count_delivery` does that), so an entry that only waits in
        this process is not suspected of killing its worker.
        """
        reply = await _RECLAIM(
            self.redis, [self.stream], [self.group, self.consumer, self.min_idle_ms, limit]
        )
        return [
            Delivery(
                self.stream,
                EntryId(codec.decode(entry_id)),
                fields or [],
                deliveries,
                deleted=fields is None,
                counted=False,
            )
            for entry_id, deliveries, fields in reply
        ]

    async def count_delivery(self, delivery: Delivery) -> bool:
        """Count a delivery of a reclaimed entry; false if it is no longer held."""
        delivery.deliveries = await _COUNT_DELIVERY(
            self.redis, [self.stream], [self.group, self.consumer, delivery.entry_id]
        )
        delivery.counted = delivery.deliveries > 0
        return delivery.counted

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
