"""Tidies the streams: trims settled entries, removes idle consumers, brings parked events back."""

import asyncio
import logging
import time
from collections.abc import Callable

from ..broker import codec, keys
from ..broker.clock import now_ms
from ..broker.entries import pages
from ..broker.queue_scripts import move_entry
from ..broker.redis_errors import OUTAGE_ERRORS, is_missing_group, is_missing_key
from ..broker.scripts import Script
from ..engine import failure_record
from ..process.service import WorkerContext
from ..types import StreamName
from .config import StreamsConfig
from .groups import others_that_hold
from .router import EventRouter

logger = logging.getLogger(__name__)

_TRIM = Script.load(__name__, "trim")
_REMOVE_IDLE_CONSUMERS = Script.load(__name__, "remove_idle_consumers")

PERIOD_S = 2.0
UNPARK_INTERVAL_S = 10.0
SWEEP_INTERVAL_S = 60.0
"""Interval of what can wait: idle consumers, and entries that other groups settled."""
UNPARK_BATCH = 200
IDLE_LEASES = 10
"""Leases after which a consumer that holds nothing is removed."""


class Janitor:
    """One per consumer; several may work on a stream, since each step is atomic.

    ``settled`` counts what this consumer has settled: while it stands still there is nothing to
    trim, and an idle worker leaves Redis alone.
    """

    def __init__(
        self,
        worker: WorkerContext,
        router: EventRouter,
        config: StreamsConfig,
        consumer: str,
        *,
        settled: Callable[[], int] = lambda: 0,
    ) -> None:
        self._redis = worker.commands
        self._router = router
        self._config = config
        self._consumer = consumer
        self._availability = worker.availability
        self._settled = settled
        self._named: set[tuple[StreamName, str]] = set()
        self._parked_at: dict[StreamName, str] = {}

    async def run(self) -> None:
        """Tidy until cancelled."""
        before = last = self._settled()
        unpark_at = time.monotonic()
        sweep_at = unpark_at + SWEEP_INTERVAL_S
        while True:
            await asyncio.sleep(PERIOD_S)
            now = time.monotonic()
            sweep, unpark = now >= sweep_at, now >= unpark_at
            sweep_at = now + SWEEP_INTERVAL_S if sweep else sweep_at
            unpark_at = now + UNPARK_INTERVAL_S if unpark else unpark_at
            # One pass longer than needed, since acknowledgements are written a little later.
            busy = self._settled() != before
            before, last = last, self._settled()
            for stream in self._router.streams:
                try:
                    await self._tidy(stream, trim=busy or sweep, unpark=unpark, sweep=sweep)
                except OUTAGE_ERRORS as exc:
                    # After a FLUSHALL the reader creates stream and group again.
                    if not is_missing_group(exc) and not is_missing_key(exc):
                        self._availability.record_failure(exc, f"tidying {stream}")

    async def _tidy(self, stream: StreamName, *, trim: bool, unpark: bool, sweep: bool) -> None:
        if trim and self._config.trim and self._router.owns(stream):
            await self.trim(stream)
        if unpark:
            while await self.unpark(stream) == UNPARK_BATCH:
                pass
        if sweep:
            await self.remove_idle_consumers(stream)
            await self._name_silent_groups(stream)

    async def _name_silent_groups(self, stream: StreamName) -> None:
        """Log, once for each, the groups that keep entries and seem to have no worker."""
        now = await now_ms(self._redis) / 1000
        others = await others_that_hold(self._redis, stream, self._config.consumer_group, now)
        silent = {(stream, other.name) for other in others if other.is_silent}
        for other in others:
            if (stream, other.name) in silent - self._named:
                logger.warning("%s", other.warning(stream))
        self._named = {(s, name) for s, name in self._named if s != stream} | silent

    async def trim(self, stream: StreamName) -> int:
        """Remove the entries that every group has settled; return how many."""
        return int(await _TRIM(self._redis, [stream]))

    async def unpark(self, stream: StreamName) -> int:
        """Bring back events that this group has parked and whose type this worker knows.

        Return how many were examined.

        The place is remembered: a type that is unknown to this process stays unknown to it.
        """
        source = keys.parked(stream)
        examined = count = 0
        seen = self._parked_at.get(stream)
        start = f"({seen}" if seen else "-"
        async for page in pages(self._redis, source, start=start, limit=UNPARK_BATCH):
            for entry_id, payload in page:
                examined += 1
                group = payload.get(failure_record.GROUP, self._config.consumer_group)
                known = self._router.knows(stream, payload.get(failure_record.TYPE, ""))
                if known and group == self._config.consumer_group:
                    payload[failure_record.GROUP] = group
                    count += await move_entry(
                        self._redis,
                        source=source,
                        target=stream,
                        entry_id=entry_id,
                        fields=codec.encode_fields(failure_record.back_to_work(payload)),
                    )
                self._parked_at[stream] = entry_id
        if count:
            logger.info("%d parked events of %s have a handler now and came back", count, stream)
        return examined

    async def remove_idle_consumers(self, stream: StreamName) -> list[str]:
        """Remove consumers idle for `IDLE_LEASES` that hold nothing; return their names."""
        min_idle_ms = int(self._config.lease_timeout * IDLE_LEASES * 1000)
        removed = await _REMOVE_IDLE_CONSUMERS(
            self._redis, [stream], [self._config.consumer_group, self._consumer, min_idle_ms]
        )
        names = [codec.decode(name) for name in removed]
        if names:
            logger.info("removed idle consumers of %s: %s", stream, ", ".join(names))
        return names
