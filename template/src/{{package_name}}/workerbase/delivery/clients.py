# Owned by arq-worker-template: `copier update` overwrites edits; subclass the adapters instead.
"""Redis clients for an application: one per event loop, one for code without a loop."""

import asyncio
import weakref
from types import TracebackType
from typing import Self

import redis

from ..config import WorkerConfig
from ..connect import connect, connect_sync
from ..jobqueue import QueueClient


class AppClients:
    """Opens clients when they are first needed.

    An asyncio client belongs to the event loop in which it was first used, so each loop gets its
    own. The sync client is redis-py's: safe in threads, and after a fork each process opens
    connections of its own.

    Args:
        config: where Redis is; read from the environment if not given.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._given = config
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, QueueClient] = (
            weakref.WeakKeyDictionary()
        )
        self._sync: redis.Redis | None = None

    @property
    def config(self) -> WorkerConfig:
        """The configuration in use.

        Raises:
            ConfigError: the environment is wrong.
        """
        if self._given is None:
            self._given = WorkerConfig.load()
        return self._given

    @property
    def for_loop(self) -> QueueClient:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            client = connect(self.config.location, self.config.queue_name)
            self._by_loop[loop] = client
        return client

    @property
    def for_threads(self) -> redis.Redis:
        """The client for code without an event loop."""
        if self._sync is None:
            self._sync = connect_sync(self.config.location)
        return self._sync

    async def aclose(self) -> None:
        """Close the client of the running loop, and the sync one; they open again when used."""
        client = self._by_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose(close_connection_pool=True)
        self.close()

    def close(self) -> None:
        """Close the sync client; it opens again when used."""
        client, self._sync = self._sync, None
        if client is not None:
            client.close()

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the clients."""
        await self.aclose()
