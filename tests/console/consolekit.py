"""What the tests of the console share: a worker's settings, clients of the pages, dead letters."""

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.console import Access, History, make_console
from workerbase.jobs import LeasedJobs
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerconfig import Config

ConfigFor = Callable[..., Config]
ORIGIN = {"Sec-Fetch-Site": "same-origin"}
"""What a browser sends with a form of the same site."""
BASE_URL = "http://localhost"


class OrderPlaced(Event, type="order.placed", stream="orders"):
    """Somebody wants something."""

    order_id: int
    api_token: str = ""


router = EventRouter()


@router.on(OrderPlaced)
async def on_order_placed(event: OrderPlaced, ctx: EventContext) -> None:
    """Reserve the stock."""
    if event.order_id % 2:
        msg = f"no stock for {event.order_id}"
        raise ValueError(msg)


@task(max_retries=2)
async def bill(ctx: Ctx, order_id: int, *, api_token: str = "") -> str:
    """Send the bill."""
    if order_id < 0:
        raise ValueError("no such account")
    return "billed"


def settings_of(config: Config, **more: Any) -> type[BaseArqWorkerSettings]:
    """Make the settings of a worker with an event and a task."""
    services = (Streams(router), LeasedJobs(), History())
    members: dict[str, Any] = {"config": config, "functions": [bill], "services": services}
    return type("Settings", (BaseArqWorkerSettings,), members | more)


@contextlib.asynccontextmanager
async def browsing(
    settings: type[BaseArqWorkerSettings], access: Access | None = None, prefix: str = ""
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the pages, without a server between."""
    app = make_console(settings, access or Access(allow_changes=True))
    transport = httpx.ASGITransport(app, root_path=prefix)
    async with httpx.AsyncClient(
        transport=transport, base_url=BASE_URL + prefix, headers=ORIGIN
    ) as client:
        try:
            yield client
        finally:
            await app.state.site.close()


def text_of(html: str) -> str:
    """Return the words of a page, as one line."""
    shown = re.sub(r"<(script|style|head).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(shown.split())


def fields_of(html: str, action: str = "") -> dict[str, list[str]]:
    """Return the hidden fields of the form that goes to ``action``."""
    found: dict[str, list[str]] = {}
    for form in re.findall(r'<form method="post".*?</form>', html, re.DOTALL):
        if f'action="{action}"' in form or not action:
            for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form):
                found.setdefault(name, []).append(value)
    return found
