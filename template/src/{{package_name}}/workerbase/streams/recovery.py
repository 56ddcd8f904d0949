"""Reclaims entries of consumers that died or drained, and starts them with care."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..broker.redis_errors import OUTAGE_ERRORS, is_missing_group
from ..engine.retry_policy import DeadLetter
from ..errors import PoisonError
from ..leasing.held_leases import HeldLeases
from ..leasing.prefetch_queue import PrefetchQueue
from ..leasing.terms import SCAN_SHARE
from ..process.service import WorkerContext
from .config import StreamsConfig
from .entry import Delivery, EntryHeader
from .leases import StreamLeases
from .settlement import StreamSettlement

logger = logging.getLogger(__name__)

EXCLUSIVE_S = 0.1
"""How long a redelivered entry runs exclusively; most of what kills a worker kills it at once."""


@dataclass(kw_only=True, eq=False)
class Recoverer:
    """Looks for abandoned entries of the consumer's streams."""

    worker: WorkerContext
    config: StreamsConfig
    leases: Iterable[StreamLeases]
    held: HeldLeases[Delivery]
    queue: PrefetchQueue[Delivery]
    settlement: StreamSettlement
    create_groups: Callable[[], Awaitable[None]]
    """Create the streams and groups that are missing."""

    async def run(self) -> None:
        """Reclaim until cancelled."""
        while True:
            await asyncio.sleep(self.config.lease_timeout * SCAN_SHARE)
            for leases in self.leases:
                try:
                    while await leases.any_expired():
                        await self._reclaim(leases)
                except OUTAGE_ERRORS as exc:
                    if is_missing_group(exc):
                        # The intake does not notice while all slots wait to settle their entries.
                        logger.warning("%s; creating the group again", exc)
                        await self.create_groups()
                    else:
                        self.worker.availability.record_failure(exc, "reclaiming abandoned entries")

    async def _reclaim(self, leases: StreamLeases) -> None:
        """Reclaim as many entries as there are slots, and room, and start them."""
        held = self.held.by_source[leases.stream]
        reclaimed: list[Delivery] = []
        limit = max(1, min(self.config.concurrency, self.queue.fitting()))
        for delivery in await leases.reclaim(limit):
            if delivery.deleted:
                logger.error(
                    "%s was deleted while it was pending, probably by XTRIM or XDEL: its message "
                    "is lost",
                    delivery,
                )
                header = EntryHeader.from_delivery(delivery)
                self.settlement.report("deleted", delivery, header)
            elif delivery.entry_id not in held:  # else it is ours, and is renewed by this
                held[delivery.entry_id] = delivery
                reclaimed.append(delivery)
        self.worker.monitors.on_leases("message", "reclaimed", len(reclaimed))
        if reclaimed:
            logger.info(
                "reclaimed %d entries of %s from consumers that died or drained",
                len(reclaimed),
                leases.stream,
            )
        try:
            await self._start_all(leases, reclaimed)
        finally:
            for delivery in reclaimed:
                if not delivery.started:
                    self.held.forget(delivery)

    async def _start_all(self, leases: StreamLeases, reclaimed: list[Delivery]) -> None:
        suspects: list[Delivery] = []
        for delivery in reclaimed:
            if delivery.deliveries >= self.config.max_deliveries:
                await self._dead_letter(delivery)
            elif delivery.deliveries:
                suspects.append(delivery)
            elif await leases.count_delivery(delivery):  # released by a consumer that drained
                await self.queue.start_exclusively(delivery)
        if suspects:
            await self._start_suspects(leases, suspects)

    async def _dead_letter(self, delivery: Delivery) -> None:
        error = PoisonError(
            f"delivered {delivery.deliveries} times and never settled: it probably kills its worker"
        )
        header = EntryHeader.from_delivery(delivery)
        await self.settlement.failed(delivery, header, error, DeadLetter("poison"))

    async def _start_suspects(self, leases: StreamLeases, suspects: list[Delivery]) -> None:
        """Start entries that may have killed their worker, one by one, before all that waits.

        Each runs exclusively for a moment, so that the death of a worker costs its successors
        little. On its last delivery nothing else runs until it has ended: an entry that dies with
        a killer is innocent, and this is its one chance to show it.
        """
        self.queue.pause()
        try:
            await self.queue.wait_idle(EXCLUSIVE_S)
            for delivery in suspects:
                last = delivery.deliveries + 1 >= self.config.max_deliveries
                if last:
                    await self.queue.wait_idle(None)
                # What has been handled must not be redelivered because of a suspect either.
                await self.settlement.acks.flush()
                if await leases.count_delivery(delivery):
                    await self.queue.start_exclusively(delivery)
                    await self.queue.wait_idle(None if last else EXCLUSIVE_S)
        finally:
            self.queue.unpause()
