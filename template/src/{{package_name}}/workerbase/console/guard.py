"""The middleware that applies `Access` to each request, and the headers of each answer."""

import logging
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import REALM, Access, Refusal

logger = logging.getLogger(__name__)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SAFE_METHODS = ("GET", "HEAD")


class Guard:
    """Refuses what `Access` does not allow; the user's name is ``scope["state"]["user"]``."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer: ASGIApp = self._app
        try:
            user = self._check(scope)
        except Refusal as refusal:
            answer = _refuse(scope, refusal)
        else:
            state: dict[str, Any] = {**scope.get("state", {}), "user": user}
            scope = {**scope, "state": state}
        await answer(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        self._access.check_host(headers.get("host", ""))
        peer = (scope.get("client") or ("", 0))[0]
        user = self._access.user(headers, peer, scope)
        if scope["method"] not in SAFE_METHODS:
            self._access.check_change(headers)
        return user


def _refuse(scope: Scope, refusal: Refusal) -> Response:
    logger.warning(
        "refused %s %s from %s: %s",
        scope["method"],
        scope["path"].encode("unicode_escape").decode(),
        (scope.get("client") or ("?",))[0],
        refusal.reason.encode("unicode_escape").decode(),
    )
    headers = {"WWW-Authenticate": f'Basic realm="{REALM}"'} if refusal.status == 401 else {}  # noqa: PLR2004
    if "/api/" in scope["path"]:
        return JSONResponse({"error": refusal.reason}, refusal.status, headers)
    return PlainTextResponse(f"{refusal.reason}\n", refusal.status, headers)
