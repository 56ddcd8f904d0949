"""Dead letters: by error, one by one, and what is done with them."""

from collections.abc import Mapping
from typing import cast, get_args

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ...engine.retry_policy import Reason
from ...errors import PayloadError
from .. import redact
from ..letters import Query, change_of, find, one
from ..operations import DONE, Action, Operation, TooManyError
from ..site import Site, Urls, form_of, site_of, user_of

REASONS = get_args(Reason)
LEFT = {
    "gone": "gone already",
    "capped": "left: replayed too often",
    "unknown": "left: the worker has no handler for their type",
    "exists": "left: a job with the same id waits or runs",
    "unreadable": "left: not a job that the worker can read",
}


async def listing(request: Request) -> Response:
    """List dead letters by error, and the newest of those that match."""
    site, query, problem = site_of(request), Query.from_parameters(request.query_params), ""
    found = None  # what an unreadable filter means is not guessed
    try:
        found = await find(site.redis, site.settings, query)
    except PayloadError as exc:
        problem = str(exc)
    sources = [source.name for source in site.settings.sources()]
    return await site.page(
        request, "dead.html", query=query, found=found, problem=problem, sources=sources,
        parks=any(source.parks for source in site.settings.sources()), reasons=REASONS,
    )  # fmt: skip


async def letter(request: Request) -> Response:
    """Show one dead letter; its payload only where that is asked for."""
    site, parameters = site_of(request), request.query_params
    source, entry_id = parameters.get("source", ""), parameters.get("id", "")
    parked = parameters.get("parked") == "1"
    found = await one(site.redis, source, entry_id, parked=parked)
    if found is None:
        return await site.page(
            request, "message.html", status=404, title="Dead letter not found",
            text=f"There is no dead letter {entry_id} of {source}: it was replayed or purged, "
            "here or elsewhere.",
        )  # fmt: skip
    queue, entry = found
    shown = parameters.get("payload") == "1"
    return await site.page(
        request, "letter.html", entry=entry, facts=entry.as_dict(), source=queue.source,
        parked=parked, payload=redact.payload(entry.payload.get("data", "")) if shown else None,
        fields=redact.data(entry.other_fields) if shown else {},
    )  # fmt: skip


async def start(request: Request) -> Response:
    """Start a change, or its preview, and show how it goes on."""
    site, fields = site_of(request), await form_of(request)
    given = dict(fields)
    query, action = Query.from_parameters(given), given.get("action", "")
    everything = given.get("only") == "all"
    ids = frozenset(v for name, v in fields if name == "id" and v and not everything)
    if action not in DONE:
        return await _refused(site, request, f"{action!r} is not replay or purge")
    if given.get("only") == "selected" and not ids:
        return await _refused(site, request, "No dead letter is selected.")
    try:
        operation = operation_of(
            site, request, cast("Action", action), query, ids, preview=given.get("preview") == "1"
        )
        await site.operations.start(operation)
    except (PayloadError, TooManyError) as exc:
        return await _refused(site, request, str(exc))
    return RedirectResponse(Urls(request)(f"operations/{operation.id}"), 303)


def operation_of(
    site: Site,
    request: Request,
    action: Action,
    query: Query,
    ids: frozenset[str],
    *,
    preview: bool,
) -> Operation:
    """Prepare a change; one that is not only a preview is logged.

    Raises:
        PayloadError: the query or an id cannot be read.
    """
    operation = Operation(
        action=action,
        targets=query.targets(site.redis, site.settings),
        wanted=query.selected(ids) if ids else query.as_filter(),
        change=change_of(site.settings, action),
        preview=preview,
        user=user_of(request),
        query=query.as_parameters() | {"id": sorted(ids)},
    )
    if not preview:
        meant = {name: value for name, value in operation.query.items() if value}
        site.log_change(request, f"{action} of dead letters {meant or 'of all sources'}")
    return operation


async def operation(request: Request) -> Response:
    """Show a change: its progress, its result, or what it would do."""
    site = site_of(request)
    found = site.operations.get(request.path_params["id"])
    if found is None:
        return await site.page(
            request, "message.html", status=404, title="Operation not found",
            text="This console does not know it: it was restarted, or many others ran since.",
        )  # fmt: skip
    return await site.page(
        request, "operation.html", operation=found, left=LEFT, meant=_meant(found.query),
        live=f"operations/{found.id}" if found.ended is None else "",
        layout="fragment.html" if request.query_params.get("part") else "base.html",
    )  # fmt: skip


def _meant(query: Mapping[str, object]) -> str:
    """Describe the filter of a change."""
    given = {name: value for name, value in query.items() if value and name != "id"}
    if ids := cast("list[str]", query.get("id")):
        return f"{len(ids)} that were selected"
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "all dead letters"


async def _refused(site: Site, request: Request, text: str) -> Response:
    return await site.page(request, "message.html", status=400, title="Not done", text=text)


ROUTES = (
    Route("/dead", listing),
    Route("/letter", letter),
    Route("/operations", start, methods=["POST"]),
    Route("/operations/{id}", operation),
)
