"""Who may look and who may change: safe where nothing is configured."""

import hmac
import ipaddress
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REALM = "worker console"


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that is refused, with the status and the reason that the sender is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The rules of a console. Without a token, a proxy or a function only this machine may look.

    Args:
        allow_changes: whether anything may be changed.
        hosts: names in the Host header that are answered, beside those of the loopback.
        token: what the sender must know: as a bearer token, or as the password of a browser.
        user_header: header in which a proxy names the user.
        proxies: addresses or networks of the proxies that are trusted with that header.
        user_of: returns the user of a request, from its ASGI scope, where the application that
            mounts the console has authenticated it; None refuses the request.
    """

    allow_changes: bool = False
    hosts: Collection[str] = ()
    token: str = field(default="", repr=False)
    user_header: str = ""
    proxies: Collection[str] = ("127.0.0.1", "::1")
    user_of: Callable[[Mapping[str, Any]], str | None] | None = None

    def __post_init__(self) -> None:
        """Refuse addresses of proxies that are none.

        Raises:
            ConfigError: names the address.
        """
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as exc:
                msg = f"{proxy!r} is not an address or network of a proxy: {exc}"
                raise ConfigError(msg) from exc

    @property
    def identifies(self) -> bool:
        """Whether users are told apart from strangers."""
        return bool(self.token or self.user_header or self.user_of)

    def check_address(self, host: str) -> None:
        """Refuse to listen where others can connect and nothing identifies them.

        Raises:
            ConfigError: says what to configure.
        """
        if not self.identifies and not is_loopback(host):
            msg = (
                f"the console would be open to everybody who reaches {host}: set "
                "WORKER_CONSOLE_TOKEN, or name the header in which your proxy passes the user on "
                "(--user-header, with --proxy), or listen on 127.0.0.1"
            )
            raise ConfigError(msg)

    def check_host(self, host: str) -> None:
        """Refuse a name that was not given to this console: it may be an attacker's, rebound here.

        Raises:
            Refusal: names the host.
        """
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        if name not in LOOPBACK_HOSTS and name not in {allowed.lower() for allowed in self.hosts}:
            reason = f"{name or 'no host'} is not a name of this console; add it with --allow-host"
            raise Refusal(421, reason)

    def user(self, headers: Mapping[str, str], peer: str, scope: Mapping[str, Any]) -> str:
        """Return the name of the user.

        Raises:
            Refusal: the request does not say who sends it.
        """
        if self.user_of is not None:
            if user := self.user_of(scope):
                return user
            raise Refusal(403, "the application that mounts the console names no user")
        if self.user_header and (user := headers.get(self.user_header, "")):
            if self._is_proxy(peer):
                return user
            raise Refusal(403, f"{peer} is not a proxy that may name the user; see --proxy")
        if self.token:
            return self._user_with_token(headers.get("authorization", ""))
        if self.user_header:
            raise Refusal(403, f"the proxy names no user in {self.user_header}")
        if is_loopback(peer):
            return "local"
        raise Refusal(403, "only this machine may look; configure who else may")

    def check_change(self, headers: Mapping[str, str]) -> None:
        """Refuse a change that another site may have caused, or that is not allowed at all.

        Raises:
            Refusal: says why.
        """
        if not self.allow_changes:
            raise Refusal(403, "this console only shows; start it with --allow-changes")
        site = headers.get("sec-fetch-site", "")
        if site != "same-origin":
            came = f"from {site}" if site else "without the header Sec-Fetch-Site"
            reason = (
                f"the change came {came}, so that another site may have caused it: use HTTPS or "
                "localhost, or as a program send 'Sec-Fetch-Site: same-origin'"
            )
            raise Refusal(403, reason)

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in ipaddress.ip_network(proxy) for proxy in self.proxies)

    def _user_with_token(self, authorization: str) -> str:
        scheme, _, given = authorization.partition(" ")
        user, secret = "token", given.strip()
        if scheme.lower() == "basic":
            try:
                user, _, secret = b64decode(given, validate=True).decode().partition(":")
            except (Base64Error, UnicodeDecodeError):
                secret = ""
        known = hmac.compare_digest(secret.encode(), self.token.encode())
        if scheme.lower() not in ("basic", "bearer") or not known:
            raise Refusal(401, "the token is missing or wrong (WORKER_CONSOLE_TOKEN)")
        return user or "token"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address, or connects from it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
