"""What the pages of one console share: settings, client, samples, and how a page is rendered."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ..broker.client import connect
from ..broker.enqueue import QueueClient
from ..process.service import ResolvedSettings
from ..types import RedisClient
from .access import Access
from .formats import TEMPLATES, VERSION
from .operations import Operations
from .sampler import Sampler

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 100_000

PAGES = (
    ("", "Overview"),
    ("queues", "Queues"),
    ("dead", "Dead letters"),
    ("jobs", "Jobs"),
    ("schedule", "Schedule"),
    ("workers", "Workers"),
    ("pauses", "Pauses"),
    ("catalogue", "Catalogue"),
)
"""Paths and titles of what the navigation lists."""


@dataclass(slots=True, eq=False)
class Site:
    """One console."""

    settings: ResolvedSettings
    access: Access
    sampler: Sampler = field(init=False)
    operations: Operations = field(default_factory=Operations)
    _client: QueueClient | None = None

    def __post_init__(self) -> None:
        """Make the sampler."""
        self.sampler = Sampler(lambda: self.client, self.settings)

    @property
    def client(self) -> QueueClient:
        """The Redis client; it connects when it is first used."""
        if self._client is None:
            config = self.settings.config
            self._client = connect(config.dsn, config.queue_name, config.max_payload)
            self._client.job_serializer = self.settings.job_serializer
            self._client.job_deserializer = self.settings.job_deserializer
        return self._client

    @property
    def redis(self) -> RedisClient:
        """The same client, for plain commands."""
        return cast("RedisClient", self.client)

    async def close(self) -> None:
        """Stop what runs and close the connection."""
        await self.operations.close()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose(close_connection_pool=True)

    async def page(
        self, request: Request, template: str, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Render a page with the navigation of the newest sample."""
        return HTMLResponse(await self.html(request, template, **values), status)

    async def html(self, request: Request, template: str, **values: Any) -> str:
        """Render a page, or the part of it that is updated where ``layout`` says so."""
        sample = values.pop("sample") if "sample" in values else await self.sampler.current()
        config = self.settings.config
        base: dict[str, Any] = {
            "layout": "base.html",
            "url": Urls(request),
            "here": request.scope["path"].removeprefix(request.scope.get("root_path", "")),
            "pages": PAGES,
            "sample": sample,
            "now": sample.at if sample else time.time(),
            "worker": self.settings.package,
            "queue": config.queue_name,
            "redis": str(config.dsn),
            "may_change": self.access.allow_changes,
            "user": user_of(request),
            "version": VERSION,
            "live": "",
        }
        return TEMPLATES.get_template(template).render(base | values)

    def log_change(self, request: Request, what: str) -> None:
        """Log who changes what."""
        peer = request.client.host if request.client else "?"
        who = user_of(request).encode("unicode_escape").decode()
        logger.info("%s (%s): %s", who, peer, what.encode("unicode_escape").decode())


@dataclass(frozen=True, slots=True)
class Urls:
    """Builds addresses below the prefix under which the console is mounted."""

    request: Request

    def __call__(self, path: str = "", **query: object) -> str:
        """Return the address of a page; parameters that are None or empty are left out."""
        root = self.request.scope.get("root_path", "")
        wanted = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{root}/{path}" + (f"?{urlencode(wanted, doseq=True)}" if wanted else "")


def site_of(request: Request) -> Site:
    """Return the console that a request belongs to."""
    return cast("Site", request.app.state.site)


async def body_of(request: Request) -> str:
    """Return the body of a request.

    Raises:
        HTTPException: it is larger than any form of these pages.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES:,} bytes")
    return body.decode("utf-8", "replace")


async def form_of(request: Request) -> list[tuple[str, str]]:
    """Return the names and values of a form."""
    return parse_qsl(await body_of(request), keep_blank_values=True)


def user_of(request: Request) -> str:
    """Return the name of the user, as `Access` found it."""
    state: Mapping[str, Any] = request.scope.get("state", {})
    return str(state.get("user", ""))
