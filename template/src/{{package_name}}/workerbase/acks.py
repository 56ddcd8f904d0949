# Owned by arq-worker-template: `copier update` overwrites edits; there is nothing to configure.
"""Acknowledge handled entries in batches.

One XACK for each message would cost a round trip and as much CPU as all the rest. Nothing waits
for an acknowledgement, so they are gathered for `LINGER_S`; a crash in that time means that these
messages are handled a second time, as a crash always may.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from .connect import OUTAGE_ERRORS
from .lease import Delivery
from .link import RedisLink
from .types import EntryId, RedisClient, StreamName

LINGER_S = 0.01
BATCH = 500


class Acker:
    """Acknowledges for one consumer group."""

    def __init__(
        self,
        redis: RedisClient,
        group: str,
        link: RedisLink,
        acked: Callable[[StreamName, list[EntryId]], None],
    ) -> None:
        self._redis = redis
        self._group = group
        self._link = link
        self._acked = acked
        self._waiting: dict[StreamName, list[EntryId]] = defaultdict(list)
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()

    def add(self, delivery: Delivery) -> None:
        """Acknowledge a handled entry soon."""
        self._waiting[delivery.stream].append(delivery.entry_id)
        self._wake.set()

    async def run(self) -> None:
        """Acknowledge until cancelled; Redis being away only delays it."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(LINGER_S)
            self._wake.clear()
            try:
                await self.flush()
            except OUTAGE_ERRORS as exc:
                self._wake.set()
                await self._link.wait_after(exc, "acknowledging")

    async def flush(self) -> None:
        """Acknowledge what waits; what Redis did not confirm waits on."""
        async with self._lock:
            for stream, ids in list(self._waiting.items()):
                while batch := ids[:BATCH]:
                    await self._redis.execute_command("XACK", stream, self._group, *batch)
                    del ids[: len(batch)]
                    self._acked(stream, batch)
