"""Where a message or job is, by any id."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ..inspector.find import MAX_EXAMINED, Findings, Sighting
from ..inspector.find import find as find_id
from ..site import Urls, site_of


async def find(request: Request) -> Response:
    """List the places where an id was found; a single dead letter or job is shown at once."""
    site, wanted = site_of(request), request.query_params.get("id", "").strip()
    found = Findings((), ())
    if wanted:
        found = await find_id(site.client, site.settings, wanted)
    if len(found.sightings) == 1 and (address := address_of(Urls(request), found.sightings[0])):
        return RedirectResponse(address, 303)
    return await site.page(
        request, "find.html", searched=wanted, found=found, limit=MAX_EXAMINED,
        address_of=address_of,
    )  # fmt: skip


def address_of(url: Urls, one: Sighting) -> str:
    """Return the page that shows a message or job; empty if none does."""
    if one.place in ("job", "retry"):
        return url("job", id=one.id)
    if one.place in ("dead_letter", "parked"):
        parked = "1" if one.place == "parked" else ""
        return url("letter", source=one.source, id=one.entry_id, parked=parked)
    return ""


ROUTES = (Route("/find", find),)
