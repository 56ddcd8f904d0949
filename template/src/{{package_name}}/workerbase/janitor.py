# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_TRIM to keep entries.
"""Tidies the streams: settled entries go, empty consumers go, parked events come back."""

import asyncio
import logging
import time

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
FORGET_EVERY_S = 60.0
UNPARK_BATCH = 100


class Janitor:
    """One per consumer; several may work on a stream, since each step is atomic."""

    def __init__(
        self,
        redis: RedisClient,
        router: EventRouter,
        config: WorkerConfig,
        consumer: str,
        link: RedisLink,
    ) -> None:
        self._redis = redis
        self._router = router
        self._config = config
        self._consumer = consumer
        self._link = link
        self._parked_at: dict[StreamName, str] = {}

    async def run(self) -> None:
        """Tidy until cancelled."""
        forget_at = time.monotonic() + FORGET_EVERY_S
        while True:
            await asyncio.sleep(PERIOD_S)
            forget = time.monotonic() >= forget_at
            if forget:
                forget_at = time.monotonic() + FORGET_EVERY_S
            for stream in self._router.streams:
                try:
                    await self.tidy(stream, forget=forget)
                except OUTAGE_ERRORS as exc:
                    if not _is_gone(exc):
                        self._link.failed(exc, f"tidying {stream}")

    async def tidy(self, stream: StreamName, *, forget: bool = False) -> None:
        """Do one pass over ``stream``."""
        if self._config.trim:
            await self.trim(stream)
        await self.unpark(stream)
        if forget:
            await self.forget(stream)

    async def trim(self, stream: StreamName) -> int:
        """Remove the entries that every group has settled; return how many."""
        return int(await scripts.trim(self._redis, [stream]))

    async def unpark(self, stream: StreamName) -> int:
        """Bring back parked events whose type this worker knows; return how many.

        Looks at a few entries a pass and remembers where it was, since a stream that only newer
        workers understand may be long.
        """
        parked = SetAside(self._redis, keys.parked(stream))
        count = 0
        last = ""
        async for entry in parked.scan(after=self._parked_at.get(stream, ""), most=UNPARK_BATCH):
            last = entry.entry_id
            if self._router.knows(stream, entry.payload.get(TYPE, "")):
                count += await parked.unpark(entry)
        self._parked_at[stream] = last
        if count:
            logger.info("%d parked events of %s have a handler now and came back", count, stream)
        return count

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
