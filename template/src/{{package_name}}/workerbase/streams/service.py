"""`Streams`: the service that handles the events of a router."""

import asyncio
from collections.abc import Sequence
from functools import partial

from ..broker.client import raw_entries
from ..config import WorkerConfig
from ..engine.sources import SourceStatus, WorkSource
from ..engine.vitals import Vitals
from ..process.service import Service, WorkerContext
from ..types import RedisClient
from .config import StreamsConfig, group_of
from .consumer import BLOCK_MS, Consumer
from .router import EventRouter
from .status import stream_status


class Streams(Service):
    """Handles the events that have a handler in ``router``.

    Args:
        router: the handlers.
    """

    name = "streams"
    config_type: type[WorkerConfig] = StreamsConfig

    def __init__(self, router: EventRouter) -> None:
        self.router = router

    def sources(self, config: WorkerConfig) -> Sequence[WorkSource]:
        """Describe the streams that have handlers."""
        group = group_of(config)
        return [
            WorkSource(
                stream,
                "stream",
                group=group,
                names=self.router.types(stream),
                knows=partial(self.router.knows, stream),
                functions=self.router.handlers(stream),
                models=self.router.models,
                parks=True,
            )
            for stream in self.router.streams
        ]

    async def startup(self, worker: WorkerContext) -> None:
        """Build the consumer, with a client of its own for reading."""
        self._worker = worker
        self._reader = raw_entries(worker.connect()) if self.router.streams else None
        self._consumer = self._new_consumer(BLOCK_MS)

    def _new_consumer(self, block_ms: int | None) -> Consumer | None:
        config = self._worker.config
        assert isinstance(config, StreamsConfig)  # noqa: S101 - the settings were resolved
        if self._reader is None:
            return None
        return Consumer(self._worker, self._reader, self.router, config, block_ms=block_ms)

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Consume until ``stop`` is set, then drain; a router without handlers only waits."""
        if self._consumer is None:
            await stop.wait()
        else:
            await self._consumer.serve(stop, drain)

    async def run_pending(self) -> int:
        """Handle what is in the streams now, with a consumer that polls."""
        consumer = self._new_consumer(None)
        if consumer is None:
            return 0
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.serve(stop, self._worker.config.drain_seconds))
        # Idle, and still idle after two more reads: nothing was on its way either.
        reads = consumer.reads
        while not running.done() and consumer.reads < reads + 2:
            await asyncio.sleep(0.001)
            if not consumer.is_idle:
                reads = consumer.reads
        stop.set()
        await running
        return consumer.counts.total()

    def vitals(self) -> Vitals:
        """Report the consumer's health."""
        return Vitals(self.name) if self._consumer is None else self._consumer.vitals()

    async def status(self, redis: RedisClient, config: WorkerConfig) -> Sequence[SourceStatus]:
        """Report what waits in each stream."""
        group = group_of(config)
        return [await stream_status(redis, stream, group) for stream in self.router.streams]
