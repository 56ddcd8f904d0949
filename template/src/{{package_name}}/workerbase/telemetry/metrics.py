"""Prometheus metrics: the events of the services, counted on the event loop.

The counts are plain numbers that become metrics at a scrape: no other thread touches them, so
nothing is locked, and a message costs a look-up and a few additions. Metrics that the project
registers with ``prometheus_client`` are served, too.

No label grows without bound: names are those that the services declare, and any other is
``unknown``. None of them comes from a payload or from the text of an error.
"""

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from importlib import metadata
from itertools import accumulate, product
from pathlib import Path
from typing import get_args

import redis.exceptions
from prometheus_client import REGISTRY, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ..engine.sources import WorkSource
from ..monitor import Kind, LeaseEvent, Monitor, Outcome, Work
from ..process.heartbeat import Heartbeat
from ..process.service import WorkerContext, worker_of
from ..types import Ctx
from .config import TelemetryConfig
from .http import Pages
from .redis_sample import Sampler

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"

DURATIONS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Upper bounds of the buckets: OpenTelemetry's for messaging, thinned out, and up to timeouts."""
LAGS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_PERIOD_S = 0.5

_SHOWN_AT_ONCE: tuple[Outcome, ...] = ("handled", "retried", "dead_lettered")
"""Outcomes that start with 0, since a rate needs a former value."""
_REDIS_ERRORS = frozenset(
    name
    for name, found in vars(redis.exceptions).items()
    if isinstance(found, type) and issubclass(found, Exception)
)


class Histogram:
    """Counts values by size; not thread-safe, like everything on the event loop."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the number of values up to each bound."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class Tally:
    """The outcomes and durations of one event type or function."""

    __slots__ = ("outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter(dict.fromkeys(_SHOWN_AT_ONCE, 0))
        self.seconds = Histogram(DURATIONS_S)


class InFlight:
    """Counts what runs; one instance surrounds all runs of a kind."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        """Count one more."""
        self.count += 1

    def __exit__(self, *_: object) -> None:
        """Count one less."""
        self.count -= 1


class Metrics(Monitor, Collector):
    """Keeps the metrics of one worker, and serves them while it runs.

    Args:
        config: where to serve; read from the environment if not set.

    Raises:
        ConfigError: a ``WORKER_METRICS_…`` variable is wrong.
    """

    def __init__(self, config: TelemetryConfig | None = None) -> None:
        self._config = config or TelemetryConfig.load()
        self._tallies: dict[tuple[Kind, str, str], Tally] = {}
        self._in_flight: dict[Kind, InFlight] = {kind: InFlight() for kind in get_args(Kind)}
        events = product(get_args(Kind), get_args(LeaseEvent))
        self._leases: Counter[tuple[Kind, LeaseEvent]] = Counter(dict.fromkeys(events, 0))
        self._redis_errors = Counter({"ConnectionError": 0, "TimeoutError": 0})
        self._breaker_open = False
        self._lag = Histogram(LAGS_S)
        self._worker: WorkerContext | None = None
        self._sources: dict[str, WorkSource] = {}
        self._heartbeat: Heartbeat | None = None
        self._sampler: Sampler | None = None
        self.port: int | None = None
        """Where they are served; None while they are not."""

    # --- events of the services

    def around(self, work: Work) -> AbstractContextManager[object]:
        """Count what runs."""
        return self._in_flight[work.kind]

    def on_finished(
        self,
        work: Work,
        outcome: Outcome,
        error: BaseException | None,  # noqa: ARG002
        seconds: float,
    ) -> None:
        """Count the outcome of ``work``."""
        tally = self._tallies.get((work.kind, work.source, work.name)) or self._tally(work)
        tally.outcomes[outcome] += 1
        if seconds:
            tally.seconds.observe(seconds)

    def on_leases(self, kind: Kind, event: LeaseEvent, count: int) -> None:
        """Count an event of leases."""
        self._leases[kind, event] += count

    def on_redis_failure(self, error: BaseException) -> None:
        """Count the failure under the nearest of its classes that redis-py has."""
        names = [known.__name__ for known in type(error).__mro__]
        self._redis_errors[next((n for n in names if n in _REDIS_ERRORS), "OSError")] += 1

    def on_breaker(self, *, is_open: bool) -> None:
        """Record the state of the breaker."""
        self._breaker_open = is_open

    def _tally(self, work: Work) -> Tally:
        """Return the tally of a name that no service declared."""
        source = work.source if work.source in self._sources else UNKNOWN
        # All names of jobs were known in advance.
        known = self._sources.get(work.source)
        named = work.kind == "message" and known is not None and known.knows(work.name)
        name = work.name if named else UNKNOWN
        return self._tallies.setdefault((work.kind, source, name), Tally())

    # --- the life of the worker

    def watch(self, worker: WorkerContext) -> None:
        """Register the names that the services declare, and the client to sample with."""
        self._worker = worker
        self._heartbeat = worker.heartbeat
        self._sampler = Sampler(worker.commands, worker.settings)
        self._sources = {source.name: source for source in worker.settings.sources()}
        for source in self._sources.values():
            kind: Kind = "job" if source.kind == "queue" else "message"
            for name in source.names:
                self._tallies.setdefault((kind, source.name, name), Tally())

    @asynccontextmanager
    async def lifespan(self, ctx: Ctx) -> AsyncGenerator[None]:
        """Serve the metrics and measure the event loop, from start-up until all is drained."""
        worker = worker_of(ctx)
        if worker is None or worker.heartbeat is None:
            yield
            return
        self.watch(worker)
        heartbeat = worker.heartbeat
        pages = Pages(self.page, Path(heartbeat.path))
        async with AsyncExitStack() as stack:
            lag = asyncio.create_task(self._measure_lag(), name="metrics: loop lag")
            stack.callback(lag.cancel)
            host, port = self._config.metrics_host, self._config.metrics_port
            try:
                self.port = await pages.start(host, port)
            except OSError as exc:
                logger.error(  # noqa: TRY400 - the traceback would add nothing
                    "metrics are not served, and the worker runs without them: %s; set "
                    "WORKER_METRICS_HOST and WORKER_METRICS_PORT",
                    exc,
                )
            else:
                stack.push_async_callback(pages.stop)
                heartbeat.add_facts(metrics_port=self.port)
            yield
        self.port = None

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self._lag.observe(max(0.0, loop.time() - due))

    # --- for Prometheus

    async def page(self) -> bytes:
        """Return all metrics in the text format."""
        if self._sampler is not None:
            await self._sampler.refresh()
        return generate_latest(_Together((self, REGISTRY)))

    def collect(self) -> Generator[Metric]:
        """Yield each metric."""
        yield self._info()
        yield from self._work()
        leases = CounterMetricFamily(
            "worker_lease_events",
            "Leases that were renewed, lost or reclaimed.",
            labels=("kind", "event"),
        )
        for (kind, event), count in self._leases.items():
            leases.add_metric((kind, event), count)
        yield leases
        errors = CounterMetricFamily(
            "worker_redis_errors",
            "Commands that Redis did not answer or refused.",
            labels=["error"],
        )
        for error, count in self._redis_errors.items():
            errors.add_metric([error], count)
        yield errors
        yield GaugeMetricFamily(
            "worker_breaker_open",
            "1 while the circuit breaker handles one message at a time.",
            float(self._breaker_open),
        )
        up = self._heartbeat is not None and self._heartbeat.availability.up
        yield GaugeMetricFamily("worker_redis_up", "1 while Redis accepts writes.", float(up))
        lag = HistogramMetricFamily(
            "worker_event_loop_lag_seconds", "Lag of the event loop behind its timers."
        )
        lag.add_metric((), self._lag.buckets(), self._lag.sum)
        yield lag
        if self._worker is not None:
            paused = GaugeMetricFamily(
                "worker_paused", "1 for what an operator has paused.", labels=("kind", "name")
            )
            for pause in self._worker.paused.all:
                paused.add_metric((pause.kind, pause.name), 1)
            yield paused
        if self._sampler is not None:
            yield from self._sampler.collect()

    def _info(self) -> Metric:
        info = GaugeMetricFamily(
            "worker_info",
            "This worker.",
            labels=("package", "version", "queue", "group"),
        )
        if self._worker is not None:
            package = self._worker.settings.package
            try:
                version = metadata.version(package)
            except metadata.PackageNotFoundError:
                version = UNKNOWN
            config = self._worker.config
            group = str(getattr(config, "consumer_group", ""))  # where the worker has streams
            info.add_metric((package, version, config.queue_name, group), 1)
        return info

    def _work(self) -> Generator[Metric]:
        attempts = CounterMetricFamily(
            "worker_attempts",
            "Deliveries of messages and attempts of jobs, by outcome.",
            labels=("kind", "source", "name", "outcome"),
        )
        seconds = HistogramMetricFamily(
            "worker_attempt_duration_seconds",
            "Duration of handlers and tasks.",
            labels=("kind", "source", "name"),
        )
        for key, tally in self._tallies.items():
            for outcome, count in tally.outcomes.items():
                attempts.add_metric((*key, outcome), count)
            seconds.add_metric(key, tally.seconds.buckets(), tally.seconds.sum)
        yield attempts
        yield seconds
        in_flight = GaugeMetricFamily(
            "worker_in_flight", "Handlers and tasks that are running.", labels=["kind"]
        )
        for kind, running in self._in_flight.items():
            in_flight.add_metric([kind], running.count)
        yield in_flight


class _Together(Collector):
    """Several collectors as one."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Generator[Metric]:
        """Yield the metrics of each."""
        for collector in self._collectors:
            yield from collector.collect()
