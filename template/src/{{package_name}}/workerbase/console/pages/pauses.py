"""Pauses: what is paused, by whom and why; it begins and ends here where changes are allowed."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ...engine.pauses import PAUSE_KINDS, PauseKind
from ...errors import PayloadError
from ..letters import seconds_of
from ..pauses import NotKnownError, begin, end, names_of, read_pauses
from ..site import Urls, form_of, site_of, user_of

ACTIONS = ("pause", "resume")


async def listing(request: Request) -> Response:
    """List what is paused, and what could be."""
    return await _page(request, {})


async def _page(request: Request, fields: Mapping[str, str], problem: str = "") -> Response:
    """Show the page; after a ``problem`` with the fields that were sent."""
    site = site_of(request)
    pauses = await read_pauses(site.client, site.settings.config.queue_name)
    names = {kind: sorted(found) for kind, found in names_of(site.settings).items()}
    return await site.page(
        request, "pauses.html", status=400 if problem else 200, pauses=pauses, names=names,
        fields=fields, problem=problem,
    )  # fmt: skip


async def change(request: Request) -> Response:
    """Pause or resume what a form says."""
    fields = dict(await form_of(request))
    fields["kind"], _, fields["name"] = fields.get("what", "").partition(":")
    try:
        await change_pause(request, fields)
    except (NotKnownError, PayloadError) as exc:
        return await _page(request, fields, str(exc))
    return RedirectResponse(Urls(request)("pauses"), 303)


async def change_pause(request: Request, fields: Mapping[str, str]) -> str:
    """Make a change, log it, and return its result.

    Args:
        request: says who makes it.
        fields: ``action``, ``kind``, ``name``; to pause, also ``for`` and ``reason``.

    Raises:
        NotKnownError: the worker does not know the name.
        PayloadError: another field cannot be read.
    """
    site, action, name = site_of(request), fields.get("action", ""), fields.get("name", "")
    kinds: dict[str, PauseKind] = {kind: kind for kind in PAUSE_KINDS}
    for field, known in (("action", ACTIONS), ("kind", kinds)):
        if (given := fields.get(field, "")) not in known:
            msg = f"{field} is {given!r}, not one of {', '.join(known)}"
            raise PayloadError(msg)
    kind = kinds[fields["kind"]]
    if action == "pause":
        why, seconds = fields.get("reason", ""), seconds_of(fields.get("for", ""))
        who = user_of(request)
        await begin(site.redis, site.settings, kind, name, who=who, why=why, seconds=seconds)
        result = "paused"
    else:
        ended = await end(site.redis, site.settings.config.queue_name, kind, name)
        result = "resumed" if ended else "not paused"
    site.log_change(request, f"{action} of {kind} {name}: {result}")
    return result


ROUTES = (Route("/pauses", listing), Route("/pauses", change, methods=["POST"]))
