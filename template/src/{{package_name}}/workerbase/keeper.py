# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_LEASE_TIMEOUT instead.
"""Keeps the leases of what this consumer has, and takes over what others have abandoned."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from . import lease
from .acks import Acker
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .errors import PoisonError
from .events import Head
from .lease import Delivery, Held, Leases
from .link import RedisLink
from .retry import DeadLetter
from .settle import Outcomes, Settler
from .types import EntryId, StreamName

logger = logging.getLogger(__name__)

ALONE_S = 0.1
"""So long a redelivered entry has the worker for itself; most of what kills, kills at once."""


@dataclass(kw_only=True, eq=False)
class Keeper:
    """The lease loops of one consumer."""

    config: WorkerConfig
    link: RedisLink
    leases: Mapping[StreamName, Leases]
    held: Held
    buffer: Buffer[Delivery]
    acker: Acker
    settler: Settler
    outcomes: Outcomes

    # --- what is ours

    async def renew(self) -> None:
        """Renew the leases until cancelled."""
        while True:
            await asyncio.sleep(self.config.lease_timeout * lease.RENEW_SHARE)
            for stream, held in self.held.items():
                try:
                    lost = await self.leases[stream].renew(list(held))
                except OUTAGE_ERRORS as exc:
                    # NOGROUP: the reader makes the group again, and what was held is lost to us.
                    self.link.failed(exc, "renewing leases")
                else:
                    self._lose(stream, lost)

    def _lose(self, stream: StreamName, lost: list[EntryId]) -> None:
        # What was settled while the renewal was under way is not held any more.
        gone = {d for entry_id in lost if (d := self.held[stream].pop(entry_id, None))}
        for delivery in gone:
            if delivery.started:
                logger.warning(
                    "the lease of %s %s ran out while it was handled; it may run twice",
                    stream,
                    delivery.entry_id,
                )
        self.buffer.drop(gone)

    # --- what others left

    async def take_over(self) -> None:
        """Look for abandoned entries until cancelled."""
        while True:
            await asyncio.sleep(self.config.lease_timeout * lease.SCAN_SHARE)
            for leases in self.leases.values():
                try:
                    # While everything fails there is no use in having more of it.
                    while not self.buffer.holding and await leases.any_expired():
                        await self._take_one(leases)
                except OUTAGE_ERRORS as exc:
                    if "NOGROUP" not in str(exc):
                        self.link.failed(exc, "taking over abandoned entries")

    async def _take_one(self, leases: Leases) -> None:
        reclaimed = await leases.reclaim()
        if reclaimed is None:
            return
        delivery = reclaimed.delivery
        held = self.held[delivery.stream]
        if reclaimed.deleted:
            logger.error(
                "%s %s was deleted while it was pending, probably by XTRIM or XDEL: its message "
                "is lost",
                delivery.stream,
                delivery.entry_id,
            )
            self.outcomes.report("deleted", delivery, Head.of(delivery))
        elif delivery.entry_id not in held:  # else it is ours, and being reclaimed has renewed it
            held[delivery.entry_id] = delivery
            try:
                if delivery.deliveries >= self.config.max_deliveries:
                    await self._bury(delivery)
                else:
                    await self._start(leases, delivery)
            finally:
                if not delivery.started:
                    held.pop(delivery.entry_id, None)

    async def _bury(self, delivery: Delivery) -> None:
        error = PoisonError(
            f"delivered {delivery.deliveries} times and never settled: it probably kills its worker"
        )
        head = Head.of(delivery)
        outcome = await self.settler.set_aside(delivery, error, DeadLetter("poison"), head.attempt)
        self.outcomes.report(outcome, delivery, head, error)

    async def _start(self, leases: Leases, delivery: Delivery) -> None:
        """Start an entry before all that waits here; alone, if it may have killed its worker.

        Alone for a moment, so that a worker's death costs its successors little. On its last
        delivery nothing else runs until it has ended: whoever dies with a killer is innocent,
        and has this one chance to show it.
        """
        if delivery.deliveries == 0:  # handed back by a consumer that drained: nobody suspects it
            if await leases.begin(delivery):
                await self.buffer.run_next(delivery)
            return
        last = delivery.deliveries + 1 >= self.config.max_deliveries
        self.buffer.pause()
        try:
            await self.buffer.wait_quiet(None if last else ALONE_S)
            await self.acker.flush()  # what has ended must not be taken along either
            if await leases.begin(delivery):
                await self.buffer.run_next(delivery)
                await self.buffer.wait_quiet(None if last else ALONE_S)
        finally:
            self.buffer.resume()
