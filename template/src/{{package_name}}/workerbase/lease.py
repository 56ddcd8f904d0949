# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_LEASE_TIMEOUT instead.
"""The lease: a pending entry is ours until its idle time reaches the lease timeout.

Redis keeps the idle time of every pending entry. The owner sets it back to 0 well before the
lease ends (`Leases.renew`), whether the entry is being handled or still waits its turn; anybody
may take an entry whose lease has run out (`Leases.reclaim`). The three periods below add up to
less than one lease, so that a dead worker's entries are taken over within one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from . import scripts, wire
from .types import EntryId, RedisClient, StreamName

RENEW_SHARE = 0.15
"""A lease is renewed this often: three renewals may fail before it is lost."""
IDLE_SHARE = 0.7
"""An entry counts as abandoned after this share of the lease."""
SCAN_SHARE = 0.1
"""Abandoned entries are looked for this often; the rest of the lease is for starting them."""


@dataclass(slots=True, eq=False)
class Delivery:
    """One entry as it was delivered to this consumer."""

    stream: StreamName
    entry_id: EntryId
    fields: list[bytes]
    """Names and values in turn, as Redis sends them."""
    deliveries: int = 1
    """How often Redis has delivered the entry, this time included."""
    started: bool = False
    """A slot has it. What has not started is handed back at once when the worker stops."""
    settling: bool = False
    """Its outcome is on the way to Redis, which may have it and not have said so yet."""


Held: TypeAlias = dict[StreamName, dict[EntryId, Delivery]]
"""What this consumer has and has not settled: the entries whose leases it renews."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """An entry taken over from a consumer that let its lease run out."""

    delivery: Delivery
    deleted: bool
    """The body is gone: somebody trimmed or deleted an entry that was still pending."""


class Leases:
    """The leases that one consumer holds on one stream."""

    def __init__(
        self, redis: RedisClient, stream: StreamName, group: str, consumer: str, timeout: float
    ) -> None:
        self.stream = stream
        self._redis = redis
        self._group = group
        self._consumer = consumer
        self._min_idle_ms = int(timeout * IDLE_SHARE * 1000)

    async def renew(self, ids: Collection[EntryId]) -> list[EntryId]:
        """Start the leases of ``ids`` anew; return those that others have taken over."""
        if not ids:
            return []
        lost = await scripts.renew(self._redis, [self.stream], [self._group, self._consumer, *ids])
        return [EntryId(wire.text(entry_id)) for entry_id in lost]

    async def any_expired(self) -> bool:
        """Whether there is something to `reclaim`: one cheap command, for it is asked often."""
        rows = await self._redis.execute_command(
            "XPENDING", self.stream, self._group, "IDLE", self._min_idle_ms, "-", "+", 1,
            parse_detail=True,
        )  # fmt: skip
        return bool(rows)

    async def reclaim(self, most: int = 1) -> list[Reclaimed]:
        """Take over the oldest entries whose leases have run out, up to ``most``.

        No delivery is counted yet (`begin` does that), so an entry that only waits here is not
        suspected of killing its worker.
        """
        reply = await scripts.reclaim(
            self._redis, [self.stream], [self._group, self._consumer, self._min_idle_ms, most]
        )
        return [
            Reclaimed(
                Delivery(self.stream, EntryId(wire.text(entry_id)), fields or [], deliveries),
                deleted=fields is None,
            )
            for entry_id, deliveries, fields in reply
        ]

    async def begin(self, delivery: Delivery) -> bool:
        """Count a delivery of a reclaimed entry; false if it is no longer ours."""
        delivery.deliveries = await scripts.begin(
            self._redis, [self.stream], [self._group, self._consumer, delivery.entry_id]
        )
        return delivery.deliveries > 0

    async def hand_back(self, keep: Collection[EntryId] = ()) -> int:
        """Let other consumers take all our entries but ``keep`` at once; return how many."""
        count = await scripts.hand_back(
            self._redis, [self.stream], [self._group, self._consumer, *keep]
        )
        return int(count)

    async def leave(self) -> bool:
        """Remove our consumer from the group, unless it still holds entries."""
        return bool(await scripts.leave(self._redis, [self.stream], [self._group, self._consumer]))
