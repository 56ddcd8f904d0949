"""Brings deferred messages back to their stream when their type can be handled again.

`StreamSettlement.defer` moves messages of a type that is held up to a stream of their own in Redis,
so that neither slots nor memory are taken by what waits, and every worker of the group can resume
them. While a breaker is open here, only as many come back as are tried; while the type or the
stream is paused, none.
"""

import asyncio
import time
from dataclasses import dataclass, field

from ..broker import codec, keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.scripts import Script
from ..process.service import WorkerContext
from ..types import StreamName
from .breaker import TRIALS_PER_S, Breakers, EventKey
from .config import StreamsConfig

_RESUME = Script.load(__name__, "resume")

PERIOD_S = 0.25
"""Interval between passes while something is deferred."""
IDLE_PERIOD_S = 5.0
"""Interval at which a worker looks for what others have deferred."""
FIRST_BATCH, MAX_BATCH = 20, 1_000
"""Messages of one type that come back in a pass. The number doubles with each pass, since the first
ones may fail again."""
FINAL_SHARE = 0.9
"""Share of the longest wait after which a failure is the last: the rest is for coming back."""


@dataclass(kw_only=True, eq=False)
class Resumer:
    """Resumes what the workers of one consumer group have deferred."""

    worker: WorkerContext
    streams: tuple[StreamName, ...]
    config: StreamsConfig
    breakers: Breakers
    _batches: dict[EventKey, int] = field(default_factory=dict[EventKey, int], init=False)
    _paused: set[EventKey] = field(default_factory=set[EventKey], init=False)
    """Types that were paused: how long their messages may wait begins anew."""

    async def run(self) -> None:
        """Resume until cancelled."""
        look_at, waiting = 0.0, False
        while True:
            await asyncio.sleep(PERIOD_S)
            now = time.monotonic()
            paused = self.worker.paused.any
            if not waiting and not self.breakers.open and not paused and now < look_at:
                continue
            look_at = now + IDLE_PERIOD_S
            try:
                found = [await self.resume(stream) for stream in self.streams]
                waiting = paused or any(found)  # the pause may have ended meanwhile
            except OUTAGE_ERRORS as exc:
                self.worker.availability.record_failure(exc, "resuming deferred messages")

    async def resume(self, stream: StreamName) -> bool:
        """Take one pass over a stream; whether anything was deferred."""
        types = keys.deferred_types(stream, self.config.consumer_group)
        found = await self.worker.commands.execute_command("SMEMBERS", types)
        for event_type in found:
            key = (stream, event_type)
            if self.worker.paused.message(stream, codec.decode(event_type)):
                self._paused.add(key)
                self._batches.pop(key, None)
            elif key in self.breakers.open:
                self._batches.pop(key, None)
                # Each is tried at times, so that the wait of none is longer than it may be.
                await self._bring_back(key, MAX_BATCH, self.config.breaker_max_wait / 10)
                await self._bring_back(key, int(TRIALS_PER_S * PERIOD_S), 0)
            else:
                limit = self._batches.get(key, FIRST_BATCH)
                self._batches[key] = min(2 * limit, MAX_BATCH)
                if not await self._bring_back(key, limit, 0):
                    del self._batches[key]
        return bool(found)

    async def _bring_back(self, key: EventKey, limit: int, min_age: float) -> int:
        """Bring back up to ``limit`` messages that were deferred ``min_age`` seconds ago."""
        stream, event_type = key
        group, name = self.config.consumer_group, codec.decode(event_type)
        max_wait_ms = int(self.config.breaker_max_wait * FINAL_SHARE * 1000)
        moved = await _RESUME(
            self.worker.commands,
            [keys.deferred(stream, group, name), stream, keys.deferred_types(stream, group)],
            [
                event_type,
                limit,
                int(min_age * 1000),
                "" if key in self._paused else max_wait_ms,
            ],
        )
        if not min_age and moved < limit:
            self._paused.discard(key)
        return int(moved)
