# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_REDIS_DSN instead.
"""From a DSN to clients that survive a Redis outage."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import redis as sync
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as SyncRetry

from . import wire
from .errors import ConfigError
from .jobqueue import MAX_PAYLOAD, QueueClient
from .types import RedisClient

CONNECT_TIMEOUT_S = 1
SOCKET_TIMEOUT_S = 5
"""Longer than any BLOCK of the base, so that only a dead connection runs into it."""

OUTAGE_ERRORS = (RedisError, OSError)
"""What a Redis that is away, loading, read-only or full raises; all of it passes."""

_RECONNECT_ON: list[type[Exception]] = [RedisConnectionError, RedisTimeoutError, OSError]
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_MALFORMED = (
    "it must look like redis[s]://user:password@host:port/db, unix:///path?db=0 or "
    "redis[s]+sentinel://user:password@host:port,host:port/db?master=name, "
    "with %XX for special characters in user and password"
)


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """A parsed DSN."""

    options: dict[str, Any] = field(repr=False)
    """Address, database, login and TLS, as redis-py names them; no address with Sentinel."""
    hosts: tuple[tuple[str, int], ...]
    """Where Redis is, or its Sentinels."""
    master: str | None = None
    """The name by which Sentinel knows Redis; None without Sentinel."""
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, dsn: str) -> Self:
        """Read a DSN.

        Raises:
            ValueError: says what is wrong, without repeating the password.
        """
        try:
            url = urlsplit(dsn)
            query = dict(parse_qsl(url.query))
            unix, sentinel = url.scheme == "unix", url.scheme.endswith("+sentinel")
            where = url.netloc.rpartition("@")[2]
            # urlsplit knows how to take an IPv6 address apart, but only one host at a time.
            each = [urlsplit(f"//{host}") for host in where.split(",")]
            port = 26379 if sentinel else 6379
            hosts = tuple((host.hostname or "localhost", host.port or port) for host in each)
            db = int(query.pop("db", "") or (not unix and url.path.strip("/")) or 0)
            if (
                url.scheme not in _SCHEMES
                # What stands before a late @ is an unescaped password.
                or "@" in url.path + url.query + url.fragment
                or (where or not url.path if unix else "," in where and not sentinel)
                or db < 0
            ):
                raise ValueError  # noqa: TRY301 - as urlsplit and int do
        except ValueError:
            # The cause may repeat the password.
            raise ValueError(_MALFORMED) from None
        tls = url.scheme.startswith("rediss")
        allowed = (*(_TLS_OPTIONS * tls), *(("master", "sentinel_password") * sentinel))
        if unknown := query.keys() - set(allowed):
            msg = f"option {min(unknown)!r} is not one of {sorted({'db', *allowed})}"
            raise ValueError(msg)
        master = query.pop("master", "mymaster") if sentinel else None
        sentinel_password = query.pop("sentinel_password", None)
        options: dict[str, Any] = {"db": db, **query}
        if url.username:
            options["username"] = unquote(url.username)
        if url.password:
            options["password"] = unquote(url.password)
        if tls:
            options |= {"ssl": True, "ssl_check_hostname": True}
        if unix:
            options["unix_socket_path"] = unquote(url.path)
        elif not sentinel:
            options["host"], options["port"] = hosts[0]
        return cls(options, hosts, master, sentinel_password)

    def __str__(self) -> str:
        """Return the location without user or password, fit for a log."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        where = self.options.get("unix_socket_path", hosts)
        kind = f"sentinel {self.master} at " if self.master else ""
        return f"{kind}{where}/{self.options['db']}" + (" (TLS)" if "ssl" in self.options else "")


class _SentinelPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels, too, which redis-py leaves to the collector."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in cast("Any", self).sentinel_manager.sentinels:
            await sentinel.aclose()


def _client(location: RedisLocation, redis_class: Any, retry: Any, sentinel: Any, pool: Any) -> Any:
    options = {
        **location.options,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_keepalive": True,
        # No PING of redis-py's own: it is sent while connecting, and where it is not answered, or
        # refused for want of a password, redis-py connects again to send it, without an end.
        "health_check_interval": 0,
        # One quick retry on a fresh connection hides a restart of Redis; longer outages are the
        # loops' business, which must notice them (readiness) and keep beating.
        "retry": retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
        "retry_on_error": _RECONNECT_ON,
    }
    if location.master is None:
        return redis_class(**options)
    asking = {name: value for name, value in options.items() if name.startswith("ssl")} | {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": CONNECT_TIMEOUT_S,
        "password": location.sentinel_password,
    }
    return sentinel(location.hosts, sentinel_kwargs=asking, **options).master_for(
        location.master, redis_class=redis_class, connection_pool_class=pool
    )


def connect(
    location: RedisLocation, queue_name: str = "arq:queue", max_payload: int = MAX_PAYLOAD
) -> QueueClient:
    """Make a client for ``location``; it connects when first used and again after an outage."""
    client: QueueClient = _client(location, QueueClient, Retry, Sentinel, _SentinelPool)
    client.default_queue_name = queue_name
    client.max_payload = max_payload
    client.job_serializer = wire.dumps
    client.job_deserializer = wire.loads
    return client


def connect_sync(location: RedisLocation) -> sync.Redis:
    """Make a client for code without an event loop; safe in threads and after fork."""
    client: sync.Redis = _client(
        location, sync.Redis, SyncRetry, sync.Sentinel, sync.SentinelConnectionPool
    )
    return client


def raw_entries(client: ArqRedis) -> RedisClient:
    """Switch off redis-py's parsing of XREADGROUP on ``client``.

    A consumer reads tens of thousands of entries a second; a dict of each, before it is known
    whether it is needed, would cost as much as all the rest.
    """

    def as_it_is(reply: object, **_: object) -> object:
        return reply

    cast("Any", client).set_response_callback("XREADGROUP", as_it_is)
    return client


async def refuse_cluster(client: RedisClient) -> None:
    """Refuse a Redis Cluster, where messages would be handled, but never retried, nor jobs run.

    Raises:
        ConfigError: it is one; what does not answer is not judged.
    """
    try:
        async with asyncio.timeout(SOCKET_TIMEOUT_S):
            # Two keys of a job: a Cluster of a single node refuses them, too.
            await client.execute_command("EVAL", "return 0", 2, "arq:job:0", "arq:result:0")
    except OUTAGE_ERRORS as exc:
        if "CROSSSLOT" in str(exc):
            msg = (
                "WORKER_REDIS_DSN leads to a Redis Cluster, which refuses steps over several keys: "
                "use one Redis or its Sentinels, or shards of your own (docs/scaling.md)"
            )
            raise ConfigError(msg) from None


class _ArqSettings(RedisSettings):
    """arq's settings, whose own repr tells the password."""

    def __repr__(self) -> str:
        return f"RedisSettings(host={self.host!r}, port={self.port}, database={self.database})"


def arq_settings(location: RedisLocation) -> RedisSettings:
    """Translate ``location`` for plain arq, whose Sentinel support knows no TLS or own password."""
    options = {name: value for name, value in location.options.items() if name != "db"}
    if location.master is not None:
        options |= {"sentinel": True, "sentinel_master": location.master}
        options["host"] = list(location.hosts)
    return _ArqSettings(
        database=location.options["db"],
        **options,
        conn_timeout=CONNECT_TIMEOUT_S,
        retry_on_timeout=True,
        retry_on_error=_RECONNECT_ON,
        # Plain arq ends when a command fails, so here the client itself rides out an outage.
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
    )
