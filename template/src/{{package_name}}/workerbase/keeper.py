# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_LEASE_TIMEOUT instead.
"""Keeps the leases of what this consumer has, and takes over what others have abandoned."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from . import lease
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .errors import PoisonError
from .events import Head
from .lease import Delivery, Leases
from .retry import DeadLetter
from .settle import Settler
from .types import EntryId, StreamName

logger = logging.getLogger(__name__)

ALONE_S = 0.1
"""So long a redelivered entry has the worker for itself; most of what kills, kills at once."""


@dataclass(kw_only=True, eq=False)
class Keeper:
    """The lease loops of one consumer."""

    config: WorkerConfig
    leases: Mapping[StreamName, Leases]
    buffer: Buffer[Delivery]
    settler: Settler

    # --- what is ours

    async def renew(self) -> None:
        """Renew the leases until cancelled."""
        while True:
            await asyncio.sleep(self.config.lease_timeout * lease.RENEW_SHARE)
            for stream, held in self.settler.held.items():
                ids = list(held)
                try:
                    lost = await self.leases[stream].renew(ids)
                except OUTAGE_ERRORS as exc:
                    # NOGROUP: the reader makes the group again, and what was held is lost to us.
                    self.settler.link.failed(exc, "renewing leases")
                else:
                    self._lose(stream, lost)
                    self.settler.monitors.leases("message", "renewed", len(ids) - len(lost))

    def _lose(self, stream: StreamName, lost: list[EntryId]) -> None:
        # What was settled while the renewal was under way is not held any more.
        held = self.settler.held[stream]
        gone = {d for id_ in lost if (d := held.get(id_)) and not d.settling}
        for delivery in gone:
            self.settler.let_go(delivery)
            if delivery.started:
                logger.warning(
                    "the lease of %s %s ran out while it was handled; it may run twice",
                    stream,
                    delivery.entry_id,
                )
        self.settler.monitors.leases("message", "lost", len(gone))
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
                        await self._take(leases)
                except OUTAGE_ERRORS as exc:
                    if "NOGROUP" not in str(exc):
                        self.settler.link.failed(exc, "taking over abandoned entries")

    async def _take(self, leases: Leases) -> None:
        """Take over as many entries as there are slots, and start them."""
        held = self.settler.held[leases.stream]
        taken: list[Delivery] = []
        for entry in await leases.reclaim(self.config.concurrency):
            delivery = entry.delivery
            if entry.deleted:
                logger.error(
                    "%s %s was deleted while it was pending, probably by XTRIM or XDEL: its "
                    "message is lost",
                    delivery.stream,
                    delivery.entry_id,
                )
                self.settler.report("deleted", delivery, Head.of(delivery))
            elif delivery.entry_id not in held:  # else it is ours, and is renewed by this
                held[delivery.entry_id] = delivery
                taken.append(delivery)
        self.settler.monitors.leases("message", "taken_over", len(taken))
        if taken:
            logger.info(
                "took over %d entries of %s from consumers that are gone or drained",
                len(taken),
                leases.stream,
            )
        try:
            await self._start_all(leases, taken)
        finally:
            for delivery in taken:
                # What the breaker put back waits in the buffer, and stays ours.
                if not delivery.started and delivery not in self.buffer:
                    self.settler.let_go(delivery)

    async def _start_all(self, leases: Leases, taken: list[Delivery]) -> None:
        suspects: list[Delivery] = []
        for delivery in taken:
            if self.buffer.holding:
                return
            if delivery.deliveries >= self.config.max_deliveries:
                await self._bury(delivery)
            elif delivery.deliveries:
                suspects.append(delivery)
            elif await leases.begin(delivery):  # handed back by a consumer that drained
                await self.buffer.run_next(delivery)
        if suspects:
            await self._start_alone(leases, suspects)

    async def _bury(self, delivery: Delivery) -> None:
        error = PoisonError(
            f"delivered {delivery.deliveries} times and never settled: it probably kills its worker"
        )
        await self.settler.failed(delivery, Head.of(delivery), error, DeadLetter("poison"))

    async def _start_alone(self, leases: Leases, suspects: list[Delivery]) -> None:
        """Start entries that may have killed their worker, one by one, before all that waits.

        Each is alone for a moment, so that a worker's death costs its successors little. On its
        last delivery nothing else runs until it has ended: whoever dies with a killer is
        innocent, and has this one chance to show it.
        """
        self.buffer.pause()
        try:
            await self.buffer.wait_quiet(ALONE_S)
            for delivery in suspects:
                if self.buffer.holding:
                    return
                last = delivery.deliveries + 1 >= self.config.max_deliveries
                if last:
                    await self.buffer.wait_quiet(None)
                await self.settler.acks.flush()  # what has ended must not be taken along either
                if await leases.begin(delivery):
                    await self.buffer.run_next(delivery)
                    await self.buffer.wait_quiet(None if last else ALONE_S)
        finally:
            self.buffer.resume()
