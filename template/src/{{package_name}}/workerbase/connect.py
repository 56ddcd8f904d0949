# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_REDIS_DSN instead.
"""From a DSN to clients that survive a Redis outage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis as sync
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as SyncRetry

from . import wire
from .jobqueue import QueueClient
from .types import RedisClient

CONNECT_TIMEOUT_S = 1.0
SOCKET_TIMEOUT_S = 5.0
"""Longer than any BLOCK of the base, so that only a dead connection runs into it."""

OUTAGE_ERRORS = (RedisError, OSError)
"""What a Redis that is away, loading, read-only or full raises; all of it passes."""

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """A parsed DSN."""

    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    tls: dict[str, str] | None = None
    master: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, dsn: str) -> Self:
        """Read a DSN.

        Raises:
            ValueError: says what is wrong, without repeating the password.
        """
        url = urlsplit(dsn)
        if url.scheme not in _SCHEMES:
            msg = f"Redis DSN scheme {url.scheme!r} is not one of {', '.join(_SCHEMES)}"
            raise ValueError(msg)
        options = dict(parse_qsl(url.query))
        sentinel = url.scheme.endswith("+sentinel")
        allowed = {"db", *(("master", "sentinel_password") if sentinel else ())}
        if url.scheme.startswith("rediss"):
            allowed.update(_TLS_OPTIONS)
        if unknown := options.keys() - allowed:
            msg = f"Redis DSN option {min(unknown)!r} is not one of {sorted(allowed)}"
            raise ValueError(msg)
        user, password = _credentials(url)
        return cls(
            hosts=() if url.scheme == "unix" else _hosts(url, 26379 if sentinel else 6379),
            db=_database(url, options),
            username=user,
            password=password,
            path=url.path if url.scheme == "unix" else None,
            tls={k: options[k] for k in _TLS_OPTIONS if k in options}
            if url.scheme.startswith("rediss")
            else None,
            master=options.get("master", "mymaster") if sentinel else None,
            sentinel_password=options.get("sentinel_password"),
        )

    def __str__(self) -> str:
        """Return the location without user or password, fit for a log."""
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        kind = f"sentinel {self.master} at " if self.master else ""
        return f"{kind}{where}/{self.db}" + (" (TLS)" if self.tls is not None else "")


def _credentials(url: SplitResult) -> tuple[str | None, str | None]:
    login = url.netloc.rpartition("@")[0]
    user, _, password = login.partition(":")
    return unquote(user) or None, unquote(password) or None


def _hosts(url: SplitResult, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts: list[tuple[str, int]] = []
    for part in url.netloc.rpartition("@")[2].split(","):
        # urlsplit knows how to take an IPv6 address apart, but only one host at a time.
        one = urlsplit(f"//{part}")
        hosts.append((one.hostname or "localhost", one.port or default_port))
    return tuple(hosts)


def _database(url: SplitResult, options: dict[str, str]) -> int:
    raw = options.get("db") or ("" if url.scheme == "unix" else url.path.strip("/")) or "0"
    if not raw.isdecimal():
        msg = f"Redis database {raw!r} is not a number"
        raise ValueError(msg)
    return int(raw)


def _options(location: RedisLocation) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": location.db,
        "username": location.username,
        "password": location.password,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 15,
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, OSError],
    }
    if location.path is None:
        options["socket_keepalive"] = True
    if location.tls is not None:
        options |= {"ssl": True, "ssl_check_hostname": True, **location.tls}
    return options


def _sentinel_options(location: RedisLocation) -> dict[str, Any]:
    return {
        "password": location.sentinel_password,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": CONNECT_TIMEOUT_S,
    }


def _target(location: RedisLocation) -> dict[str, Any]:
    if location.path is not None:
        return {"unix_socket_path": location.path}
    host, port = location.hosts[0]
    return {"host": host, "port": port}


def connect(location: RedisLocation, queue_name: str = "arq:queue") -> QueueClient:
    """Make a client for ``location``; it connects when first used and again after an outage."""
    options = _options(location)
    # One quick retry on a fresh connection hides a restart of Redis; longer outages are the
    # loops' business, which must notice them (readiness) and keep beating.
    options["retry"] = Retry(ExponentialBackoff(cap=0.5, base=0.05), 1)
    kind: dict[str, Any] = {
        "default_queue_name": queue_name,
        "job_serializer": wire.dumps,
        "job_deserializer": wire.loads,
    }
    if location.master is None:
        return QueueClient(**_target(location), **options, **kind)
    # redis-py leaves these unannotated.
    make_sentinel = cast("Callable[..., Any]", Sentinel)
    sentinel = make_sentinel(location.hosts, sentinel_kwargs=_sentinel_options(location), **options)
    client = cast("QueueClient", sentinel.master_for(location.master, redis_class=QueueClient))
    for name, value in kind.items():
        setattr(client, name, value)
    return client


def connect_sync(location: RedisLocation) -> sync.Redis:
    """Make a client for code without an event loop; safe in threads and after fork."""
    options = _options(location)
    options["retry"] = SyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 1)
    if location.master is None:
        return sync.Redis(**_target(location), **options)
    make_sentinel = cast("Callable[..., Any]", sync.Sentinel)
    sentinel = make_sentinel(location.hosts, sentinel_kwargs=_sentinel_options(location), **options)
    return cast("sync.Redis", sentinel.master_for(location.master))


def raw_entries(client: ArqRedis) -> RedisClient:
    """Switch off redis-py's parsing of XREADGROUP on ``client``.

    A consumer reads tens of thousands of entries a second; a dict of each, before it is known
    whether it is needed, would cost as much as all the rest.
    """

    def as_it_is(reply: object, **_: object) -> object:
        return reply

    cast("Any", client).set_response_callback("XREADGROUP", as_it_is)
    return cast("RedisClient", client)


def arq_settings(location: RedisLocation) -> RedisSettings:
    """Translate ``location`` for plain arq, whose Sentinel support knows no TLS or own password."""
    settings = RedisSettings(
        database=location.db,
        username=location.username,
        password=location.password,
        conn_timeout=int(CONNECT_TIMEOUT_S),
        retry_on_timeout=True,
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
        # Plain arq ends when a command fails, so here the client itself rides out an outage.
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
    )
    if location.tls is not None:
        settings.ssl = True
        settings.ssl_check_hostname = True
        for name, value in location.tls.items():
            setattr(settings, name, value)
    if location.master is not None:
        settings.sentinel = True
        settings.sentinel_master = location.master
        settings.host = list(location.hosts)
    elif location.path is not None:
        settings.unix_socket_path = location.path
    else:
        settings.host, settings.port = location.hosts[0]
    return settings
