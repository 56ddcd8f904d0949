"""What is so at this moment: overview, queues and workers. These pages are updated live."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..charts import Chart, chart
from ..overview import InFlight
from ..records import Point, slow_workers
from ..sampler import Sample
from ..site import site_of

MAX_LISTED = 8
MAX_ITEMS = 50


def charts_of(sample: Sample) -> dict[str, Chart]:
    """Draw the history."""

    def series(value: Callable[[Point], float | None]) -> list[float | None]:
        return [value(point) if point.known else None for point in sample.points]

    def sampled(name: str, scale: float = 1) -> list[float | None]:
        found = [point.value(name) for point in sample.points]
        return [None if value is None else value / scale for value in found]

    return {
        "handled": chart("Handled / min", series(lambda point: point.handled)),
        "failed": chart("Failed / min", series(lambda point: point.failed)),
        "waiting": chart("Waiting", sampled("waiting")),
        "oldest": chart("Oldest age", sampled("oldest_ms", 1000)),
        "duration": chart("Mean duration", series(lambda point: point.mean_s)),
        "memory": chart("Redis memory", sampled("memory")),
    }


def overview_values(sample: Sample) -> dict[str, Any]:
    """Return what the overview shows."""
    sources = sample.overview.status.sources
    ages = [source.oldest_s for source in sources if source.oldest_s is not None]
    groups = [(dead.source, group) for dead in sample.overview.dead for group in dead.groups]
    return {
        "charts": charts_of(sample),
        "waiting": sum(source.waiting for source in sources),
        "in_work": in_work(sample),
        "later": sample.overview.later.total,
        "oldest": max(ages, default=None),
        "groups": sorted(groups, key=lambda item: -item[1].count)[:MAX_LISTED],
        "running": running(sample)[:MAX_LISTED],
        "silent": sample.silent,
        "open_breakers": [worker for worker in sample.alive if worker.breaker_open],
    }


def in_work(sample: Sample) -> int:
    """Return how many messages and jobs workers have."""
    return sample.overview.jobs + sum(s.in_work or 0 for s in sample.overview.status.sources)


def running(sample: Sample) -> list[InFlight]:
    """Return what has been in work longest: as workers say, else as Redis has it."""
    found = {
        item.id: InFlight(item.name, item.id, worker.name, sample.at - item.since, item.attempt)
        for worker in sample.alive
        for item in worker.running
    }
    for item in sample.overview.in_flight:
        if item.worker not in {worker.name for worker in sample.workers}:
            found.setdefault(item.id, item)
    return sorted(found.values(), key=lambda item: -item.age_s)


def workers_values(sample: Sample) -> dict[str, Any]:
    """Return what the page of workers shows."""
    known = {worker.name for worker in sample.workers}
    items = [(worker, item) for worker in sample.alive for item in worker.running]
    return {
        "workers": sample.alive,
        "slow": slow_workers(sample.alive),
        "items": sorted(items, key=lambda pair: pair[1].since)[:MAX_ITEMS],
        "in_work": sum(worker.in_work for worker in sample.alive),
        "silent": sample.silent,
        "others": [worker for worker in sample.overview.workers if worker.name not in known],
    }


LIVE: dict[str, tuple[str, Callable[[Sample], dict[str, Any]]]] = {
    "": ("overview.html", overview_values),
    "queues": ("queues.html", lambda _: {}),
    "workers": ("workers.html", workers_values),
}
"""Template and values of each page that is updated live, by its path."""


def _page(path: str) -> Callable[[Request], Any]:
    template, values = LIVE[path]

    async def page(request: Request) -> Response:
        site = site_of(request)
        sample = await site.sampler.current()
        live = f"live?page={path}"
        return await site.page(request, template, sample=sample, live=live, **values(sample))

    return page


ROUTES = tuple(Route(f"/{path}", _page(path)) for path in LIVE)
