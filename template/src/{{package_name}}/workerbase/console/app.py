"""The console as an ASGI application: routes, live updates, errors."""

import contextlib
import logging
from collections.abc import AsyncGenerator

from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ..process.settings import resolved_settings
from . import api
from .access import Access
from .formats import STATIC
from .guard import Guard
from .pages import ROUTES
from .pages.now import LIVE
from .site import Site, site_of

logger = logging.getLogger(__name__)

MAX_FOLLOWERS = 200
"""Maximum number of browsers that are updated live."""


class _Static(StaticFiles):
    """Files whose address changes with their content, so that browsers may keep them."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        return await super().get_response(path, scope)


async def live(request: Request) -> Response:
    """Send the changing part of a page whenever there is a new sample."""
    site = site_of(request)
    name = request.query_params.get("page", "")
    if name not in LIVE:
        return PlainTextResponse(f"{name} is not updated live\n", 404)
    if site.sampler.followers >= MAX_FOLLOWERS:
        return PlainTextResponse("too many browsers are updated live\n", 503)
    template, values = LIVE[name]
    path = f"{request.scope.get('root_path', '')}/{name}"
    here = Request({**request.scope, "path": path})

    async def events() -> AsyncGenerator[str]:
        sent = ""
        yield "retry: 3000\n\n"
        async for sample in site.sampler.follow():
            if sample is None:
                yield "event: outage\ndata: Redis does not answer\n\n"
                continue
            part = await site.html(
                here, template, sample=sample, layout="fragment.html", **values(sample)
            )
            # What has not changed is not sent again; the comment keeps the connection open.
            yield ": same\n\n" if part == sent else _event(part)
            sent = part

    return StreamingResponse(events(), media_type="text/event-stream")


def _event(part: str) -> str:
    lines = "\n".join(f"data: {line}" for line in part.splitlines())
    return f"event: part\n{lines}\n\n"


async def outage(request: Request, error: Exception) -> Response:
    """Answer while Redis does not."""
    logger.warning("a page cannot be shown: %s: %s", type(error).__name__, error)
    dsn = site_of(request).settings.config.dsn
    text = f"Redis at {dsn}: {error or 'no answer in time'}"
    if "/api/" in request.scope["path"]:
        return JSONResponse({"error": text}, 503)
    return await site_of(request).page(request, "outage.html", status=503, sample=None, text=text)


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what cannot be served."""
    del request
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "failed"
    return PlainTextResponse(f"{status} {detail}\n", status)


def make_app(settings: type, access: Access) -> Starlette:
    """Return the application; `make_console` documents it."""
    site = Site(resolved_settings(settings), access)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        await site.close()

    app = Starlette(
        routes=[
            *ROUTES,
            *api.ROUTES,
            Route("/live", live),
            Mount("/static", _Static(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            RedisError: outage,
            TimeoutError: outage,
            OSError: outage,
            HTTPException: http_error,
        },
        lifespan=lifespan,
    )
    app.state.site = site
    return app
