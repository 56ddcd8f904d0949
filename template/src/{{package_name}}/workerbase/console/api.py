"""The same as JSON, for programs: under the same rules, over the same functions."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..broker import codec
from ..errors import PayloadError
from ..inspector.dead_letters import DeadLetterEntry
from . import redact
from .inspector.find import find as find_id
from .inspector.jobs import LISTED, JobInfo, Jobs, JobState
from .inspector.schedule import read_schedule
from .letters import Query, find, one
from .operations import DONE, Action, Operation, TooManyError
from .pages.jobs import CHANGES, change_job
from .pages.letters import operation_of
from .pages.pauses import change_pause
from .pauses import NotKnownError
from .site import body_of, site_of

Endpoint = Callable[[Request], Awaitable[object]]


class Problem(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that cannot be answered: the status, and what to do."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def _answers(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Write what an endpoint returns as JSON, without the values of secrets."""

    async def answer(request: Request) -> Response:
        try:
            found = await endpoint(request)
        except Problem as problem:
            return JSONResponse({"error": str(problem)}, problem.status)
        except (PayloadError, TooManyError, NotKnownError) as exc:
            return JSONResponse({"error": str(exc)}, 400)
        return JSONResponse(redact.data(json.loads(codec.to_display_json(found))))

    return answer


async def _body(request: Request) -> Mapping[str, Any]:
    try:
        found: object = json.loads(await body_of(request))
    except ValueError as exc:
        msg = f"the body is not JSON: {exc}"
        raise Problem(msg) from exc
    if not isinstance(found, dict):
        raise Problem("the body is not a JSON object")
    return cast("Mapping[str, Any]", found)


async def overview(request: Request) -> object:
    """Return the newest sample."""
    sample = await site_of(request).sampler.current()
    return {
        **asdict(sample.overview),
        "workers": [asdict(worker) for worker in sample.workers],
        "seen": [asdict(worker) for worker in sample.overview.workers],
        "memory": {"used": sample.memory_used, "limit": sample.memory_limit},
    }


async def history(request: Request) -> object:
    """Return the history, span by span."""
    sample = await site_of(request).sampler.current()
    return [{"at": point.at, **point.counts} for point in sample.points if point.known]


async def jobs(request: Request) -> object:
    """Return the jobs of a state."""
    site, wanted = site_of(request), request.query_params.get("state", "running")
    known: dict[str, JobState] = {name: name for name in LISTED}
    if wanted not in known:
        msg = f"state is {wanted!r}, not one of {', '.join(LISTED)}"
        raise Problem(msg)
    found = await Jobs(site.client, site.settings).list(known[wanted])
    shown = [_job(job, request) for job in found.jobs]
    return {"jobs": shown, "total": found.total, "complete": found.complete}


def _job(job: JobInfo, request: Request) -> dict[str, object]:
    return job.as_dict(payload=request.query_params.get("payload") == "1")


async def job(request: Request) -> object:
    """Return one job."""
    site, job_id = site_of(request), request.query_params.get("id", "")
    found = await Jobs(site.client, site.settings).get(job_id)
    if found is None:
        msg = f"there is no job {job_id!r}"
        raise Problem(msg, 404)
    return _job(found, request)


async def change(request: Request) -> object:
    """Cancel a job, run it now or run it again: ``{"id": …, "action": …}``."""
    body = await _body(request)
    job_id, action = str(body.get("id", "")), str(body.get("action", ""))
    if action not in CHANGES:
        msg = f"action is {action!r}, not one of {', '.join(CHANGES)}"
        raise Problem(msg)
    return {"id": job_id, "result": await change_job(site_of(request), request, job_id, action)}


async def change_pauses(request: Request) -> object:
    """Pause or resume: ``{"action": …, "kind": …, "name": …, "for": …, "reason": …}``."""
    body = await _body(request)
    return {"result": await change_pause(request, {name: str(v) for name, v in body.items()})}


async def schedule(request: Request) -> object:
    """Return the cron jobs."""
    site = site_of(request)
    return [entry.as_dict() for entry in await read_schedule(site.client, site.settings)]


async def search(request: Request) -> object:
    """Return where an id was found."""
    site, wanted = site_of(request), request.query_params.get("id", "")
    if not wanted:
        raise Problem("id is missing")
    return (await find_id(site.client, site.settings, wanted)).as_dict()


async def dead(request: Request) -> object:
    """Return dead letters by error, and the newest of those that match."""
    site, query = site_of(request), Query.from_parameters(request.query_params)
    found = await find(site.redis, site.settings, query)
    return {
        "total": found.total,
        "examined": found.examined,
        "matching": found.matching,
        "groups": [{"source": source, **group.as_dict()} for source, group in found.groups],
        "letters": [_letter(source, entry, request) for source, entry in found.entries],
    }


async def letter(request: Request) -> object:
    """Return one dead letter."""
    site, parameters = site_of(request), request.query_params
    source, entry_id = parameters.get("source", ""), parameters.get("id", "")
    parked = parameters.get("parked") == "1"
    found = await one(site.redis, source, entry_id, parked=parked)
    if found is None:
        msg = f"there is no dead letter {entry_id} of {source}"
        raise Problem(msg, 404)
    return _letter(found[0].source, found[1], request)


def _letter(source: str, entry: DeadLetterEntry, request: Request) -> dict[str, object]:
    shown = {"source": source, **entry.as_dict()}
    if request.query_params.get("payload") != "1":
        del shown["data"], shown["fields"]
    return shown


async def change_dead(request: Request) -> object:
    """Replay or purge what matches: the filter, ``action``, ``preview``, and ``id`` as a list."""
    body = await _body(request)
    action, ids = str(body.get("action", "")), body.get("id", [])
    if action not in DONE:
        msg = f"action is {action!r}, not one of {', '.join(DONE)}"
        raise Problem(msg)
    if not isinstance(ids, list):
        raise Problem("id is not a list of entry ids")
    texts = {n: "1" if v is True else "" if v is False else str(v) for n, v in body.items()}
    started = operation_of(
        site_of(request),
        request,
        cast("Action", action),
        Query.from_parameters(texts),
        frozenset(map(str, cast("list[object]", ids))),
        preview=bool(body.get("preview")),
    )
    await site_of(request).operations.start(started)
    return _operation(started)


async def operation(request: Request) -> object:
    """Return how a change goes on."""
    found = site_of(request).operations.get(request.path_params["id"])
    if found is None:
        raise Problem("this console does not know the operation", 404)
    return _operation(found)


def _operation(found: Operation) -> dict[str, object]:
    return {
        "id": found.id,
        "action": found.action,
        "preview": found.preview,
        "ended": found.ended is not None,
        "examined": found.examined,
        "total": found.total,
        "results": dict(found.results),
        "problem": found.problem,
    }


ROUTES = (
    Route("/api/overview", _answers(overview)),
    Route("/api/history", _answers(history)),
    Route("/api/jobs", _answers(jobs)),
    Route("/api/job", _answers(job)),
    Route("/api/job", _answers(change), methods=["POST"]),
    Route("/api/pauses", _answers(change_pauses), methods=["POST"]),
    Route("/api/schedule", _answers(schedule)),
    Route("/api/find", _answers(search)),
    Route("/api/dead", _answers(dead)),
    Route("/api/dead", _answers(change_dead), methods=["POST"]),
    Route("/api/letter", _answers(letter)),
    Route("/api/operations/{id}", _answers(operation)),
)
