"""Redis clients that survive an outage."""

import asyncio
from typing import Any, cast

import redis as sync
from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as SyncRetry

from ..errors import ConfigError
from ..types import RedisClient
from . import codec, keys
from .dsn import RedisDsn
from .enqueue import QueueClient
from .redis_errors import OUTAGE_ERRORS, is_cross_slot

CONNECT_TIMEOUT_S = 1
SOCKET_TIMEOUT_S = 5
"""Longer than any BLOCK of the base, so that only a dead connection runs into it."""

RECONNECT_ON: list[type[Exception]] = [RedisConnectionError, RedisTimeoutError, OSError]


class _SentinelPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels, too, which redis-py leaves to the collector."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in cast("Any", self).sentinel_manager.sentinels:
            await sentinel.aclose()


def _client(dsn: RedisDsn, redis_class: Any, retry: Any, sentinel: Any, pool: Any) -> Any:
    options = {
        **dsn.options,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_keepalive": True,
        # What the base parses are replies of RESP2; redis-py 8 would ask for RESP3.
        "protocol": 2,
        # redis-py sends its own PING while it connects; where that is refused or not answered, it
        # connects again to send it, without end.
        "health_check_interval": 0,
        # One quick retry on a fresh connection hides a restart of Redis. Longer outages are handled
        # by the loops, which must notice them (readiness) and keep the heartbeat alive.
        "retry": retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
        "retry_on_error": RECONNECT_ON,
    }
    if dsn.master is None:
        return redis_class(**options)
    asking = {name: value for name, value in options.items() if name.startswith("ssl")} | {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": CONNECT_TIMEOUT_S,
        "password": dsn.sentinel_password,
    }
    return sentinel(dsn.hosts, sentinel_kwargs=asking, **options).master_for(
        dsn.master, redis_class=redis_class, connection_pool_class=pool
    )


def connect(
    dsn: RedisDsn,
    queue_name: str = keys.DEFAULT_QUEUE,
    max_payload_bytes: int = codec.MAX_PAYLOAD_BYTES,
) -> QueueClient:
    """Make a client for ``dsn``; it connects when first used and again after an outage."""
    client: QueueClient = _client(dsn, QueueClient, Retry, Sentinel, _SentinelPool)
    client.default_queue_name = queue_name
    client.max_payload_bytes = max_payload_bytes
    client.job_serializer = codec.dumps
    client.job_deserializer = codec.loads
    return client


def connect_sync(dsn: RedisDsn) -> sync.Redis:
    """Make a client for code without an event loop; safe in threads and after a fork."""
    client: sync.Redis = _client(
        dsn, sync.Redis, SyncRetry, sync.Sentinel, sync.SentinelConnectionPool
    )
    return client


def raw_entries(client: ArqRedis) -> RedisClient:
    """Disable redis-py's parsing of XREADGROUP replies on ``client``.

    A consumer reads tens of thousands of entries a second; building a dict of each would cost as
    much as everything else.
    """

    def unchanged(reply: object, **_: object) -> object:
        return reply

    cast("Any", client).set_response_callback("XREADGROUP", unchanged)
    return client


async def refuse_cluster(client: RedisClient) -> None:
    """Refuse a Redis Cluster, where no message would be retried and no job would run.

    Raises:
        ConfigError: Redis is a Cluster; a server that does not answer passes.
    """
    try:
        async with asyncio.timeout(SOCKET_TIMEOUT_S):
            # Two keys of a job: a Cluster of a single node refuses them, too.
            await client.execute_command(
                "EVAL", "return 0", 2, keys.job("", "0"), keys.result("", "0")
            )
    except OUTAGE_ERRORS as exc:
        if is_cross_slot(exc):
            msg = (
                "WORKER_REDIS_DSN leads to a Redis Cluster, which refuses steps over several keys: "
                "use one Redis or its Sentinels, or shards of your own (docs/scaling.md)"
            )
            raise ConfigError(msg) from None
