"""Redis clients for an application: one per event loop, one for code without a loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self, cast

import redis

from ..broker.client import connect, connect_sync
from ..broker.enqueue import QueueClient
from ..config import WorkerConfig
from ..errors import ConfigError
from ..types import RedisClient


class AppClients:
    """Opens clients when they are first needed.

    An asyncio client belongs to the event loop in which it was first used, so each loop gets its
    own, closed when the loop ends as `asyncio.run` ends it. Where a loop was closed otherwise, the
    next one disconnects its client. The sync client is redis-py's: safe in threads, and after a
    fork each process opens connections of its own.

    Args:
        config: where Redis is, or what loads that when it is first needed, such as `Config.load`;
            read from the environment if not given.

    Raises:
        ConfigError: ``config`` is something else, such as arq's RedisSettings.
    """

    def __init__(
        self, config: WorkerConfig | Callable[[], WorkerConfig] = WorkerConfig.load
    ) -> None:
        if not isinstance(config, WorkerConfig) and not callable(config):
            msg = (
                f"{type(self).__name__} is given a {type(config).__name__}, not a WorkerConfig: "
                "set WORKER_REDIS_DSN and give it nothing, or WorkerConfig(redis_dsn=…)"
            )
            raise ConfigError(msg)
        self._given = config
        self._by_loop: dict[
            asyncio.AbstractEventLoop, tuple[QueueClient, AsyncGenerator[None, None]]
        ] = {}
        self._sync: redis.Redis | None = None

    @property
    def config(self) -> WorkerConfig:
        """The configuration in use.

        Raises:
            ConfigError: the environment is wrong.
        """
        if not isinstance(self._given, WorkerConfig):
            self._given = self._given()
        return self._given

    @property
    def for_loop(self) -> QueueClient:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._drop_closed()
            config = self.config
            client = connect(config.dsn, config.queue_name, config.max_payload)
            closing = self._until_closed(loop, client)
            with contextlib.suppress(StopIteration):
                closing.__anext__().send(None)  # as far as its yield, so that the loop knows it
            self._by_loop[loop] = client, closing
        return self._by_loop[loop][0]

    @property
    def commands(self) -> RedisClient:
        """The same client, for plain commands."""
        return cast("RedisClient", self.for_loop)

    async def _until_closed(
        self, loop: asyncio.AbstractEventLoop, client: QueueClient
    ) -> AsyncGenerator[None, None]:
        """Close ``client`` when this is closed: by `aclose`, or by the loop when it ends."""
        try:
            yield
        finally:
            self._by_loop.pop(loop, None)
            await client.aclose(close_connection_pool=True)

    def _drop_closed(self) -> None:
        """Disconnect the clients of loops that were closed without a shutdown of generators.

        Their transports cannot be closed any more, since that takes their loop.
        """
        for loop in [loop for loop in list(self._by_loop) if loop.is_closed()]:
            client, _ = self._by_loop.pop(loop, (None, None))  # another thread may do the same
            if client is None:
                continue
            pool: Any = client.connection_pool
            for connection in (*pool._available_connections, *pool._in_use_connections):  # noqa: SLF001
                writer = connection._writer  # noqa: SLF001
                if writer is not None:
                    with contextlib.suppress(OSError):
                        writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    @property
    def for_threads(self) -> redis.Redis:
        """The client for code without an event loop."""
        if self._sync is None:
            self._sync = connect_sync(self.config.dsn)
        return self._sync

    async def aclose(self) -> None:
        """Close the client of the running loop, and the sync one; they open again when used."""
        _, closing = self._by_loop.get(asyncio.get_running_loop(), (None, None))
        if closing is not None:
            await closing.aclose()
        self.close()

    def close(self) -> None:
        """Close the sync client and those of closed loops; they open again when used."""
        self._drop_closed()
        client, self._sync = self._sync, None
        if client is not None:
            client.close()

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the clients."""
        await self.aclose()
