"""Jobs by state, one job with what may be done with it, and the schedule of cron jobs."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .. import redact
from ..inspector.jobs import CANCELLED, LISTED, RETRIED, RUN, Jobs, JobState
from ..inspector.schedule import read_schedule
from ..site import Site, Urls, form_of, site_of

Change = tuple[Callable[[Jobs, str], Awaitable[str]], dict[str, str]]
CHANGES: dict[str, Change] = {
    "cancel": (Jobs.cancel, CANCELLED),
    "run-now": (Jobs.run_now, RUN),
    "retry": (Jobs.retry, RETRIED),
}
"""What changes a job, and what is said of each result."""


async def listing(request: Request) -> Response:
    """List jobs of a state."""
    site, wanted = site_of(request), request.query_params.get("state", "running")
    known: dict[str, JobState] = {name: name for name in LISTED}
    state = known.get(wanted, "running")
    found = await Jobs(site.client, site.settings).list(state)
    return await site.page(request, "jobs.html", states=LISTED, state=state, found=found)


async def one(request: Request) -> Response:
    """Show a job; arguments and result only where that is asked for."""
    site, parameters = site_of(request), request.query_params
    job_id, shown = parameters.get("id", ""), parameters.get("payload") == "1"
    job = await Jobs(site.client, site.settings).get(job_id)
    said = parameters.get("said", "")
    action, _, result = said.partition(":")
    text = CHANGES[action][1].get(result, "") if action in CHANGES else ""
    if job is None:
        return await site.page(
            request, "message.html", status=404, title="Job not found",
            text=f"{job_id} {text or 'does not wait or run, and no result of it is kept.'}",
        )  # fmt: skip
    payload: dict[str, object] = {"args": job.args, "kwargs": job.kwargs}
    if job.success:
        payload["result"] = job.result
    return await site.page(
        request, "job.html", job=job, said=text, states=LISTED,
        payload=redact.plain(payload) if shown else None,
    )  # fmt: skip


async def change(request: Request) -> Response:
    """Change a job and say what came of it."""
    site, fields = site_of(request), dict(await form_of(request))
    job_id, action = fields.get("id", ""), fields.get("action", "")
    if action not in CHANGES:
        text = f"{action!r} is not one of {', '.join(CHANGES)}"
        return await site.page(request, "message.html", status=400, title="Not done", text=text)
    result = await change_job(site, request, job_id, action)
    said = f"{action}:{result}"
    return RedirectResponse(Urls(request)("job", id=job_id, said=said), 303)


async def change_job(site: Site, request: Request, job_id: str, action: str) -> str:
    """Make a change, log it, and return its result."""
    do, _ = CHANGES[action]
    result = await do(Jobs(site.client, site.settings), job_id)
    site.log_change(request, f"{action} of job {job_id}: {result}")
    return result


async def schedule(request: Request) -> Response:
    """List cron jobs."""
    site = site_of(request)
    entries = await read_schedule(site.client, site.settings)
    return await site.page(request, "schedule.html", entries=entries)


ROUTES = (
    Route("/jobs", listing),
    Route("/jobs", change, methods=["POST"]),
    Route("/job", one),
    Route("/schedule", schedule),
)
