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
from ..types import EntryId
from .config import StreamsConfig
from .entry import Delivery, EntryHeader
from .leases import StreamLeases
from .outage_grace import OutageGrace
from .settlement import StreamSettlement
from .suspects import Expired, Note, startable

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
    grace: OutageGrace
    create_groups: Callable[[], Awaitable[None]]
    """Create the streams and groups that are missing."""

    def __post_init__(self) -> None:
        self._leases = {leases.stream: leases for leases in self.leases}
        self._started: dict[Delivery, Expired] = {}
        """The suspects that were started, by what is reclaimed of them."""

    async def run(self) -> None:
        """Reclaim until cancelled."""
        while True:
            await asyncio.sleep(self.config.lease_timeout * SCAN_SHARE)
            for leases in self.leases:
                if self.worker.paused.stream(leases.stream):
                    continue  # what dead workers left there waits
                try:
                    while await self._recover(leases):
                        pass
                except OUTAGE_ERRORS as exc:
                    if is_missing_group(exc):
                        # The intake does not notice while all slots wait to settle their entries.
                        logger.warning("%s; creating the group again", exc)
                        await self.create_groups()
                    else:
                        self.worker.availability.record_failure(exc, "reclaiming abandoned entries")

    async def _recover(self, leases: StreamLeases) -> bool:
        """Reclaim and start what may start now, as there are slots and room; false if nothing."""
        expired = await leases.expired(self.config.max_deliveries)
        self.grace.reached()
        if not self.grace.is_over:
            expired = [entry for entry in expired if entry.is_released]
        running = list(self._running().values())
        at_most = max(1, min(self.config.concurrency, self.queue.fitting()))
        chosen = startable(expired, running, at_most)
        if chosen:
            await self._reclaim(leases, {entry.entry_id: entry for entry in chosen})
        return bool(chosen)

    def _running(self) -> dict[Delivery, Expired]:
        """Return the suspects whose handlers run."""
        self._started = {
            delivery: entry
            for delivery, entry in self._started.items()
            if delivery.started and not delivery.settling
            and self.held.by_source[delivery.source].get(delivery.entry_id) is delivery
        }  # fmt: skip
        return self._started

    async def _reclaim(self, leases: StreamLeases, chosen: dict[EntryId, Expired]) -> None:
        held = self.held.by_source[leases.stream]
        reclaimed: list[Delivery] = []
        for delivery in await leases.reclaim(chosen):
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
            for delivery in reclaimed:
                await self._start(leases, delivery, chosen[delivery.entry_id])
        finally:
            for delivery in reclaimed:
                # At the end of the consumer, what is held is released.
                if not (delivery.started or self.queue.closed):
                    self.held.forget(delivery)

    async def _start(self, leases: StreamLeases, delivery: Delivery, entry: Expired) -> None:
        if entry.is_poison:
            await self._dead_letter(delivery)
        elif entry.is_suspect:
            await self._start_suspect(leases, delivery, entry)
        else:  # released by a consumer that drained
            delivery.deliveries, delivery.counted = 1, True
            if await leases.start((delivery.entry_id, 1, Note())):
                await self.queue.start_exclusively(delivery)

    async def _start_suspect(
        self, leases: StreamLeases, delivery: Delivery, entry: Expired
    ) -> None:
        """Start an entry that may have killed its worker, before all that waits.

        Nothing else starts for a moment, so that the death of the worker costs its successors
        little.
        """
        self.queue.pause()
        try:
            if not self._running():
                await self.queue.wait_idle(EXCLUSIVE_S)
            await self.queue.wait_slot()
            # What has been handled must not be redelivered because of a suspect either.
            await self.settlement.acks.flush()
            company = await self._share(len(self._running()) + 1)
            delivery.counted = not (entry.is_last and company > 1)
            delivery.deliveries = entry.deliveries + 1
            shared = entry.note.company if delivery.counted else company
            deliveries = entry.deliveries + delivery.counted
            note = Note(shared, starting=True)
            if not await leases.start((delivery.entry_id, deliveries, note)):
                return
            self._started[delivery] = entry
            await self.queue.start_exclusively(delivery)
            await self.queue.wait_idle(EXCLUSIVE_S)
            if delivery in self._running():
                await leases.start((delivery.entry_id, deliveries, Note(shared)))
        finally:
            self.queue.unpause()
        await asyncio.sleep(0)  # what waits may take the free slots

    async def _share(self, company: int) -> int:
        """Take back the last deliveries of the suspects beside which another one starts."""
        last = [(other, its) for other, its in self._running().items() if its.is_last]
        for stream, leases in self._leases.items():
            mine = [(other, its) for other, its in last if other.source == stream]
            if mine:
                note = Note(company)
                await leases.start(*((o.entry_id, its.deliveries, note) for o, its in mine))
            for other, _ in mine:
                other.counted = False
        return company

    async def take_back(self) -> None:
        """Restore what was known of the suspects that run: a stop does not incriminate them."""
        for stream, leases in self._leases.items():
            mine = [(one, its) for one, its in self._running().items() if one.source == stream]
            if mine:
                await leases.start(*((o.entry_id, its.deliveries, its.note) for o, its in mine))
            for one, _ in mine:
                one.counted = False

    async def _dead_letter(self, delivery: Delivery) -> None:
        error = PoisonError(
            f"delivered {delivery.deliveries} times and never settled: it probably kills its worker"
        )
        header = EntryHeader.from_delivery(delivery)
        await self.settlement.failed(delivery, header, error, DeadLetter("poison"))
