"""The pages: each module has the routes of one page, or of a few that belong together."""

from starlette.routing import Route

from . import catalogue, find, jobs, letters, now, pauses

ROUTES: tuple[Route, ...] = (
    *now.ROUTES,
    *letters.ROUTES,
    *jobs.ROUTES,
    *pauses.ROUTES,
    *find.ROUTES,
    *catalogue.ROUTES,
)
