"""Reads the streams of a router as one member of the consumer group, at least once.

One coroutine reads ahead into the prefetch queue, long-lived slots take from it (`handler_pool`),
and acknowledgements are written in batches; no task, timer or round trip is spent on a single
message. Beside them leases are renewed, abandoned entries reclaimed (`recovery`) and the streams
tidied (`janitor`).
"""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from ..broker.redis_errors import OUTAGE_ERRORS, is_missing_group, reason_of
from ..engine.supervisor import TaskSupervisor
from ..engine.vitals import Vitals
from ..leasing.held_leases import HeldLeases
from ..leasing.prefetch_queue import MAX_FETCHED, PrefetchQueue
from ..leasing.renewer import LeaseRenewer, release
from ..leasing.terms import IDLE_SHARE
from ..monitor import Outcome
from ..process.service import WorkerContext
from ..types import EntryId, RedisClient, StreamName
from .config import StreamsConfig
from .deferral import Resumer
from .entry import Delivery, mean_size
from .groups import ensure_group
from .handler_pool import HandlerPool
from .janitor import Janitor
from .leases import StreamLeases
from .outage_grace import OutageGrace
from .recovery import Recoverer
from .router import EventRouter
from .settlement import StreamSettlement

logger = logging.getLogger(__name__)

BLOCK_MS = 1000
"""How long a read waits in Redis for new entries."""
PAUSED_S = 0.5
"""Interval at which a consumer asks for nothing of streams that are paused."""
NOTHING = "18446744073709551615-0"
"""An id behind which no entry is; the very last one means new entries to Redis."""


class Consumer:
    """Intake, leases, handler pool and settlement of one worker.

    Args:
        worker: client, monitors and policy.
        reader: a client of its own for the blocking read, from `broker.client.raw_entries`.
        router: the handlers.
        config: settings of streams.
        block_ms: how long a read waits in Redis; None polls, for servers that cannot block.
    """

    def __init__(
        self,
        worker: WorkerContext,
        reader: RedisClient,
        router: EventRouter,
        config: StreamsConfig,
        *,
        block_ms: int | None = BLOCK_MS,
    ) -> None:
        # The name is new with each start, so that what a former process of this host left pending
        # is never mistaken for ours.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        redis = self._redis = worker.commands
        self._worker = worker
        self._reader = reader
        self._router = router
        self._config = config
        self._availability = worker.availability
        self._block_ms = block_ms
        self._leases = {
            stream: StreamLeases(
                redis, stream, config.consumer_group, self.name, config.lease_timeout
            )
            for stream in router.streams
        }
        self._held: HeldLeases[Delivery] = HeldLeases(router.streams)
        self._queue: PrefetchQueue[Delivery] = PrefetchQueue(config.concurrency, config.prefetch)
        self._settlement = StreamSettlement(
            worker=worker, held=self._held, group=config.consumer_group, consumer=self.name
        )
        self._pool = HandlerPool(
            worker=worker,
            router=router,
            config=config,
            queue=self._queue,
            held=self._held,
            settlement=self._settlement,
        )
        grace = OutageGrace(config.lease_timeout)
        self._renewer = LeaseRenewer(
            on_reached=grace.reached,
            held=self._held,
            queue=self._queue,
            renew=self._renew,
            kind="message",
            lease_timeout=config.lease_timeout,
            availability=worker.availability,
            monitors=worker.monitors,
        )
        self._recoverer = Recoverer(
            grace=grace,
            worker=worker,
            config=config,
            leases=self._leases.values(),
            held=self._held,
            queue=self._queue,
            settlement=self._settlement,
            create_groups=self._ensure_groups,
        )
        self._resumer = Resumer(
            worker=worker, streams=router.streams, config=config, breakers=self._pool.breakers
        )
        self._janitor = Janitor(worker, router, config, self.name, settled=self.counts.total)
        self._last_read: dict[StreamName, EntryId] = {}
        self._last_pass = time.monotonic()
        self._asked_at = 0.0
        self._reading = False
        self.reads = 0
        """Number of reads that Redis has answered."""

    @property
    def counts(self) -> Counter[Outcome]:
        """How often each outcome was reached."""
        return self._settlement.counts

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or has to be acknowledged in this process."""
        return not len(self._queue) and not self._held

    def vitals(self) -> Vitals:
        """Report this consumer's health."""
        oldest = self._pool.oldest()
        return Vitals(
            name="consumer",
            # Waiting for room in the queue is no standstill; a read that never returns is.
            last_pass=self._last_pass if self._reading else time.monotonic(),
            overdue_at=None if oldest is None else oldest.started + self._config.handler_timeout,
            overdue=None if oldest is None else str(oldest.delivery or ""),
            note=self._pool.note,
        )

    # --- life cycle

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Consume until ``stop`` is set, then drain.

        Raises:
            WorkerError: a loop exited unexpectedly; nothing is lost, but this consumer has ended.
        """
        await self._ensure_groups()
        logger.info("consumer %s: reading %s", self.name, ", ".join(self._router.streams))
        intake, core = TaskSupervisor(), TaskSupervisor()
        core.start(f"{self.name}: leases", self._renewer.run())
        core.start(f"{self.name}: watch", self._pool.watch())
        core.start(f"{self.name}: acknowledge", self._settlement.acks.run())
        for index, slot in enumerate(self._pool.slots):
            slot.task = core.start(f"{self.name}: slot {index}", self._pool.run(slot))
        intake.start(f"{self.name}: read", self._read_loop())
        intake.start(f"{self.name}: recovery", self._recoverer.run())
        intake.start(f"{self.name}: resume", self._resumer.run())
        intake.start(f"{self.name}: janitor", self._janitor.run())
        self._pool.serving = asyncio.current_task()
        try:
            await TaskSupervisor.run_until(stop, intake, core)
        except BaseException:
            self._worker.failed = True
            raise
        finally:
            # Whatever ended the run, nobody reads on, and what can be released is.
            self._queue.close()
            self._settlement.draining = True
            await intake.cancel()
            await self._drain(core, drain)

    async def _drain(self, core: TaskSupervisor, drain: float) -> None:
        # What has not started goes first, and must not be held: its lease would be renewed.
        uncounted = [lease.entry_id for lease in self._held if not lease.counted]
        self._held.forget_waiting()
        await self._release([lease.entry_id for lease in self._held], uncounted)
        if running := self._queue.running:
            logger.info("draining: %d handlers are running", running)
            await self._queue.wait_idle(drain)
        if running := self._queue.running:
            logger.warning(
                "draining took longer than %g s; cancelling %d handlers and releasing their "
                "messages",
                drain,
                running,
            )
        self._pool.closing = True
        await core.cancel()
        failed = self._worker.failed
        try:
            async with self._availability.parting():
                await self._settlement.acks.flush()
                if not failed:
                    await self._recoverer.take_back()
        except OUTAGE_ERRORS as exc:
            text = "could not acknowledge at the end: %s; they are handled again"
            logger.warning(text, reason_of(exc))
            return
        # What ignored its cancellation still runs: its lease keeps others from it for a while.
        stuck = [slot.delivery.entry_id for slot in self._pool.slots if slot.delivery is not None]
        # Any of what ran may be what ended the worker, unless the stop was requested.
        counted = [lease.entry_id for lease in self._held if failed or not lease.counted]
        await self._release(stuck, counted)
        for leases in self._leases.values():
            try:
                async with self._availability.parting():
                    await leases.remove_self()
            except OUTAGE_ERRORS as exc:
                logger.warning("could not leave the group of %s: %s", leases.stream, reason_of(exc))

    async def _release(self, keep: list[EntryId], as_counted: list[EntryId]) -> None:
        await release(
            "entries",
            {
                name: partial(leases.release_all, keep, as_counted)
                for name, leases in self._leases.items()
            },
            lambda stream: bool(self._held.by_source[stream]),
            self._availability,
        )

    async def _renew(self, stream: StreamName, entry_ids: list[str]) -> list[str]:
        leases, held = self._leases[stream], self._held.by_source[stream]
        owned = [id_ for id_ in entry_ids if not ((lease := held.get(id_)) and lease.orphaned)]
        lost = await leases.renew(owned) if owned else []
        ours = [lease.entry_id for id_ in lost if (lease := held.get(id_)) and not lease.settling]
        since = time.monotonic() - self._renewer.confirmed_at
        if not ours or since >= self._config.lease_timeout * IDLE_SHARE:
            return lost  # others may have reclaimed and settled them
        restored = await leases.restore(ours)
        for entry_id, exists in restored.items():
            if lease := held.get(EntryId(entry_id)):
                lease.orphaned = not exists
        if restored:
            logger.error(
                "consumer %s lost entries of %s that nobody reclaimed, probably by XGROUP "
                "DELCONSUMER; it keeps them: %s",
                self.name,
                stream,
                ", ".join(sorted(restored)),
            )
        return [entry_id for entry_id in lost if entry_id not in restored]

    async def _ensure_groups(self) -> None:
        """Create the streams and groups that are missing.

        This is tried once at the start, and whenever a read or the recovery misses a group.

        Raises:
            RegistrationError: nothing declares where a new group starts, and others have one.
        """
        for stream in self._router.streams:
            try:
                await ensure_group(
                    self._redis,
                    stream,
                    self._config.consumer_group,
                    self._router.start_of(stream),
                    last_read=self._last_read.get(stream, ""),
                )
            except OUTAGE_ERRORS as exc:
                await self._availability.back_off(exc, f"creating the consumer group of {stream}")

    # --- intake

    async def _read_loop(self) -> None:
        # Here once more, since a stop must end the wait for an unavailable Redis.
        await self._ensure_groups()
        while True:
            room = await self._queue.room()
            self._reading, self._last_pass = True, time.monotonic()
            try:
                deliveries = await self._read(room)
            except OUTAGE_ERRORS as exc:
                self._reading = False
                if is_missing_group(exc):
                    logger.warning("%s; creating the group again", exc)
                    await self._ensure_groups()
                else:
                    streams = ", ".join(self._router.streams)
                    await self._availability.back_off(exc, f"reading {streams}")
                continue
            self._reading = False
            self.reads += 1
            self._availability.record_success()
            if deliveries:
                self._queue.add(deliveries)
            elif self._block_ms is None:
                await asyncio.sleep(0.001)

    async def _unpaused(self) -> Sequence[StreamName]:
        """Return the streams to read.

        Of the others nothing is asked for, but asked: a group of which no consumer asks counts as
        retired.
        """
        streams, paused = self._router.streams, self._worker.paused
        if not paused.any or not (held := [name for name in streams if paused.stream(name)]):
            return streams
        if time.monotonic() - self._asked_at >= PAUSED_S:
            self._asked_at = time.monotonic()
            await self._reader.execute_command(
                "XREADGROUP", "GROUP", self._config.consumer_group, self.name, "COUNT", 1,
                "STREAMS", *held, *[NOTHING] * len(held),
            )  # fmt: skip
        return [name for name in streams if name not in held]

    async def _read(self, room: int) -> list[Delivery]:
        streams = await self._unpaused()
        if not streams:
            await asyncio.sleep(PAUSED_S)
            return []
        block = ("BLOCK", self._block_ms) if self._block_ms is not None else ()
        # COUNT applies to each stream, so a busy stream cannot starve the others.
        count = max(1, min(room, MAX_FETCHED) // len(streams))
        reply: list[Any] | None = await self._reader.execute_command(
            "XREADGROUP", "GROUP", self._config.consumer_group, self.name, "COUNT", count,
            *block, "STREAMS", *streams, *[">"] * len(streams),
        )  # fmt: skip
        deliveries: list[Delivery] = []
        for name, entries in reply or ():
            stream = name.decode()
            held = self._held.by_source[stream]
            size = mean_size([fields for _, fields in entries])
            for entry_id, fields in entries:
                delivery = Delivery(stream, EntryId(entry_id.decode()), fields, size)
                held[delivery.entry_id] = delivery
                deliveries.append(delivery)
            if entries:
                self._last_read[stream] = deliveries[-1].entry_id
        return deliveries
