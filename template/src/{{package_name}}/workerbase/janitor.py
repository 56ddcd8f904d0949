# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_TRIM to keep entries.
"""Tidies the streams: settled entries go, empty consumers go, parked events come back."""

import asyncio
import logging
import time
from collections.abc import Callable

from redis.exceptions import ResponseError

from . import keys, scripts, wire
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .dlq import SetAside
from .events import TYPE, EventRouter
from .link import RedisLink
from .types import RedisClient, StreamName

logger = logging.getLogger(__name__)

PERIOD_S = 2.0
UNPARK_EVERY_S = 10.0
SWEEP_EVERY_S = 60.0
"""Consumers that are gone, and entries that other groups settled, can wait."""
UNPARK_BATCH = 200


class Janitor:
    """One per consumer; several may work on a stream, since each step is atomic.

    ``settled`` counts what this consumer has settled: while it stands still there is nothing to
    trim, and an idle worker leaves Redis alone.
    """

    def __init__(
        self,
        redis: RedisClient,
        router: EventRouter,
        config: WorkerConfig,
        consumer: str,
        link: RedisLink,
        *,
        settled: Callable[[], int] = lambda: 0,
    ) -> None:
        self._redis = redis
        self._router = router
        self._config = config
        self._consumer = consumer
        self._link = link
        self._settled = settled
        self._parked_at: dict[StreamName, str] = {}

    async def run(self) -> None:
        """Tidy until cancelled."""
        before = last = self._settled()
        unpark_at = time.monotonic()
        sweep_at = unpark_at + SWEEP_EVERY_S
        while True:
            await asyncio.sleep(PERIOD_S)
            now = time.monotonic()
            sweep, unpark = now >= sweep_at, now >= unpark_at
            sweep_at = now + SWEEP_EVERY_S if sweep else sweep_at
            unpark_at = now + UNPARK_EVERY_S if unpark else unpark_at
            # One pass longer than needed, for acknowledgements linger.
            busy = self._settled() != before
            before, last = last, self._settled()
            for stream in self._router.streams:
                try:
                    if self._config.trim and (busy or sweep):
                        await self.trim(stream)
                    if unpark:
                        while await self.unpark(stream) == UNPARK_BATCH:
                            pass
                    if sweep:
                        await self.forget(stream)
                except OUTAGE_ERRORS as exc:
                    if not _is_gone(exc):
                        self._link.failed(exc, f"tidying {stream}")

    async def trim(self, stream: StreamName) -> int:
        """Remove the entries that every group has settled; return how many."""
        return int(await scripts.trim(self._redis, [stream]))

    async def unpark(self, stream: StreamName) -> int:
        """Bring back parked events whose type this worker knows; return how many it looked at.

        It remembers where it was: what it did not know it will not know later either.
        """
        parked = SetAside(self._redis, keys.parked(stream))
        seen = count = 0
        after = self._parked_at.get(stream, "")
        async for entry in parked.scan(after=after, most=UNPARK_BATCH):
            seen += 1
            if self._router.knows(stream, entry.payload.get(TYPE, "")):
                count += await parked.unpark(entry)
            self._parked_at[stream] = entry.entry_id
        if count:
            logger.info("%d parked events of %s have a handler now and came back", count, stream)
        return seen

    async def forget(self, stream: StreamName) -> list[str]:
        """Remove consumers that were idle for ten leases and hold nothing; return their names."""
        gone = await scripts.forget(
            self._redis,
            [stream],
            [
                self._config.consumer_group,
                self._consumer,
                int(self._config.lease_timeout * 10_000),
            ],
        )
        names = [wire.text(name) for name in gone]
        if names:
            logger.info("removed consumers of %s that are gone: %s", stream, ", ".join(names))
        return names


def _is_gone(error: BaseException) -> bool:
    """Whether the stream or the group vanished (FLUSHALL); the reader makes them again."""
    return isinstance(error, ResponseError) and (
        "NOGROUP" in str(error) or "no such key" in str(error)
    )
