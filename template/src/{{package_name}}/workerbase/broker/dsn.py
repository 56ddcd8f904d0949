"""The address of Redis: one DSN that names host or socket, database, login, TLS and Sentinel."""

import re
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_MALFORMED = (
    "it must look like redis[s]://user:password@host:port/db, unix:///path?db=0 or "
    "redis[s]+sentinel://user:password@host:port,host:port/db?master=name, "
    "with %XX for special characters in user and password"
)


@dataclass(frozen=True, slots=True)
class RedisDsn:
    """A parsed DSN; ``str`` of it shows neither user nor password."""

    options: dict[str, Any] = field(repr=False)
    """Address, database, login and TLS, as redis-py names them; no address with Sentinel."""
    hosts: tuple[tuple[str, int], ...]
    """Addresses of Redis, or of its Sentinels."""
    master: str | None = None
    """The name by which Sentinel knows Redis; None without Sentinel."""
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, dsn: str) -> Self:
        """Parse a DSN.

        Raises:
            ValueError: the DSN is malformed; the message does not repeat the password.
        """
        try:
            url = urlsplit(re.sub(r"^valkey(s?)(?=:|\+)", r"redi\1s", dsn))
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
        """Return the address without user or password, fit for a log."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        where = self.options.get("unix_socket_path", hosts)
        kind = f"sentinel {self.master} at " if self.master else ""
        return f"{kind}{where}/{self.options['db']}" + (" (TLS)" if "ssl" in self.options else "")
