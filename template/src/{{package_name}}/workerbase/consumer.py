# Owned by arq-worker-template: `copier update` overwrites edits; write handlers (see `events`).
"""The stream consumer: reads, hands to handlers, settles. At least once, never less.

One coroutine reads ahead into the buffer, ``concurrency`` long-lived slots take from it (see
`handling`), and the acker confirms in batches; no task, timer or round trip is spent on a single
message. Beside them the leases are kept (see `keeper`) and the streams tidied (see `janitor`).
"""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from typing import Any
from uuid import uuid4

from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .events import EventRouter
from .groups import ensure_group
from .handling import Handling, Slot
from .health import Vitals
from .janitor import Janitor
from .keeper import Keeper
from .lease import Delivery, Leases
from .link import RedisLink
from .monitor import Monitors, Outcome
from .retry import RetryPolicy
from .services import Services
from .settle import Settler
from .types import Ctx, EntryId, RedisClient

logger = logging.getLogger(__name__)

BLOCK_MS = 1000


class Consumer:
    """Reads the streams of a router as one member of the consumer group.

    Args:
        redis: the client for everything but reading.
        reader: a client of its own for the blocking read, from `connect.raw_entries`.
        router: the handlers.
        config: see `WorkerConfig`.
        policy: when to retry; from ``config`` if not given.
        ctx: the worker's ``ctx``, which handlers see as ``EventContext.worker``.
        link: what the process knows about Redis.
        monitors: told what happens.
        block_ms: how long a read waits in Redis; None polls, for servers that cannot block.
    """

    def __init__(
        self,
        redis: RedisClient,
        reader: RedisClient,
        router: EventRouter,
        config: WorkerConfig,
        *,
        policy: RetryPolicy | None = None,
        ctx: Ctx | None = None,
        link: RedisLink | None = None,
        monitors: Monitors | None = None,
        block_ms: int | None = BLOCK_MS,
    ) -> None:
        # The name is new with each start, so that what a former process of this host left
        # pending is never mistaken for ours.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._redis = redis
        self._reader = reader
        self._router = router
        self._config = config
        self._link = link = link or RedisLink()
        self._block_ms = block_ms
        self._leases = {
            stream: Leases(redis, stream, config.consumer_group, self.name, config.lease_timeout)
            for stream in router.streams
        }
        self._buffer: Buffer[Delivery] = Buffer(config.concurrency, config.prefetch)
        self._settler = Settler(
            redis,
            link,
            group=config.consumer_group,
            consumer=self.name,
            queue_name=config.queue_name,
            dlq_max_entries=config.dlq_max_entries,
            streams=router.streams,
            monitors=monitors,
        )
        self._held = self._settler.held
        self._handling = Handling(
            redis=redis,
            router=router,
            config=config,
            policy=policy or config.retry_policy(),
            ctx={} if ctx is None else ctx,
            buffer=self._buffer,
            settler=self._settler,
        )
        self._keeper = Keeper(
            config=config, leases=self._leases, buffer=self._buffer, settler=self._settler
        )
        self._janitor = Janitor(redis, router, config, self.name, link, settled=self.counts.total)
        self._last_pass = time.monotonic()
        self._reading = False
        self.reads = 0
        """Reads that Redis has answered."""

    @property
    def counts(self) -> Counter[Outcome]:
        """How often each outcome was reached."""
        return self._settler.counts

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or has to be acknowledged in this process."""
        return not len(self._buffer) and not any(self._held.values())

    def vitals(self) -> Vitals:
        """Say how the consumer is, for the heartbeat."""
        oldest = self._handling.oldest()
        return Vitals(
            name="consumer",
            # Waiting for room in the buffer is no standstill; a read that never returns is.
            last_pass=self._last_pass if self._reading else time.monotonic(),
            overdue_at=None if oldest is None else oldest.started + self._config.handler_timeout,
            overdue=None if oldest is None else _describe(oldest),
            note=self._handling.note,
        )

    # --- life cycle

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until ``stop`` is set, then drain.

        Raises:
            WorkerError: a loop ended that must not; nothing is lost, but this consumer is done.
        """
        await self._ensure_groups()
        logger.info("%s is to consume %s", self.name, ", ".join(self._router.streams))
        intake, core = Services(), Services()
        core.start(f"{self.name}: renew", self._keeper.renew())
        core.start(f"{self.name}: watch", self._handling.watch())
        core.start(f"{self.name}: ack", self._settler.acks.run())
        for index, slot in enumerate(self._handling.slots):
            slot.task = core.start(f"{self.name}: slot {index}", self._handling.run(slot))
        intake.start(f"{self.name}: read", self._read_loop())
        intake.start(f"{self.name}: takeover", self._keeper.take_over())
        intake.start(f"{self.name}: janitor", self._janitor.run())
        try:
            await Services.wait(stop, intake, core)
        finally:
            # Whatever ended the run, nobody reads on, and what can be handed back is.
            self._buffer.close()
            self._settler.draining = True
            await intake.cancel()
            await self._drain(core)

    async def _drain(self, core: Services) -> None:
        # What has not started goes first, and must not be held: its lease would be renewed.
        for held in self._held.values():
            for delivery in [d for d in held.values() if not d.started]:
                del held[delivery.entry_id]
        await self._hand_back({entry_id for held in self._held.values() for entry_id in held})
        if running := self._buffer.running:
            logger.info("draining: %d handlers still run", running)
            await self._buffer.wait_quiet(self._config.drain_seconds)
        if running := self._buffer.running:
            logger.warning(
                "drain took longer than %g s; %d handlers are cancelled and their messages "
                "handed back",
                self._config.drain_seconds,
                running,
            )
        await core.cancel()
        try:
            await self._settler.acks.flush()
        except OUTAGE_ERRORS as exc:
            logger.warning("could not acknowledge at the end: %s; they are handled again", exc)
            return
        # What ignores its cancellation still runs: its lease keeps others from it for a while.
        stuck = (slot.delivery for slot in self._handling.slots)
        await self._hand_back({delivery.entry_id for delivery in stuck if delivery is not None})
        for leases in self._leases.values():
            try:
                await leases.leave()
            except OUTAGE_ERRORS as exc:
                logger.warning("could not leave the group of %s: %s", leases.stream, exc)

    async def _hand_back(self, keep: set[EntryId]) -> None:
        for stream, leases in self._leases.items():
            try:
                count = await leases.hand_back(keep)
            except OUTAGE_ERRORS as exc:
                if self._held[stream]:
                    logger.warning(
                        "could not hand back entries of %s (%s); others take them after the lease",
                        stream,
                        exc,
                    )
            else:
                if count:
                    logger.info("handed %d entries of %s back", count, stream)

    async def _ensure_groups(self) -> None:
        """Create what is missing of streams and groups.

        Tried once at the start, and whenever a read says so: a Redis that is full refuses this
        command even for a group that exists, and reading is what makes room.
        """
        for stream in self._router.streams:
            try:
                await ensure_group(self._redis, stream, self._config.consumer_group)
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, f"creating the consumer group of {stream}")

    # --- reading

    async def _read_loop(self) -> None:
        # Not before the loops start: where Redis is away this waits, and a stop must end that.
        await self._ensure_groups()
        while True:
            room = await self._buffer.room()
            self._reading, self._last_pass = True, time.monotonic()
            try:
                deliveries = await self._read(room)
            except OUTAGE_ERRORS as exc:
                self._reading = False
                if "NOGROUP" in str(exc):
                    logger.warning("%s; creating the group again", exc)
                    await self._ensure_groups()
                else:
                    await self._link.wait_after(exc, f"reading {', '.join(self._router.streams)}")
                continue
            self._reading = False
            self.reads += 1
            self._link.ok()
            if deliveries:
                self._buffer.add(deliveries)
            elif self._block_ms is None:
                await asyncio.sleep(0.001)

    async def _read(self, room: int) -> list[Delivery]:
        streams = self._router.streams
        block = ("BLOCK", self._block_ms) if self._block_ms is not None else ()
        # COUNT is for each stream, so a busy stream cannot keep the others out.
        count = max(1, room // len(streams))
        reply: list[Any] | None = await self._reader.execute_command(
            "XREADGROUP", "GROUP", self._config.consumer_group, self.name, "COUNT", count,
            *block, "STREAMS", *streams, *[">"] * len(streams),
        )  # fmt: skip
        deliveries: list[Delivery] = []
        for name, entries in reply or ():
            stream = name.decode()
            held = self._held[stream]
            for entry_id, fields in entries:
                delivery = Delivery(stream, EntryId(entry_id.decode()), fields)
                held[delivery.entry_id] = delivery
                deliveries.append(delivery)
        return deliveries


def _describe(slot: Slot) -> str:
    delivery = slot.delivery
    return "" if delivery is None else f"{delivery.stream} {delivery.entry_id}"
