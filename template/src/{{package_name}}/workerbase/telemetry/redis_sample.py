"""Metrics of the content of Redis, sampled at intervals and not at each scrape.

All workers of a service export the same numbers: aggregate them with max, never with sum.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Generator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..inspector.dead_letters import DeadLetterSummary, ErrorGroup, summarize
from ..inspector.status import Status, snapshot
from ..process.service import ResolvedSettings
from ..types import RedisClient

logger = logging.getLogger(__name__)

MAX_AGE_S = 10.0
"""Maximum age of a sample, however often it is scraped."""
TIMEOUT_S = 2.0
"""How long a scrape waits for Redis; Prometheus itself stops waiting after 10 s."""
MAX_NEWEST = 200
"""Maximum number of dead letters of a queue that are read, the newest."""
MAX_FINGERPRINTS = 20
"""Maximum number of errors that are told apart; the others are counted together."""
MAX_CLASS_NAME = 80
OTHER = "other"


class Sampler(Collector):
    """Samples Redis for one worker.

    Args:
        redis: the worker's own client.
        settings: of the worker.
        clock: for tests.
    """

    def __init__(
        self,
        redis: RedisClient,
        settings: ResolvedSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._lock = asyncio.Lock()
        self._due = float("-inf")
        self._status: Status | None = None
        self._dead: tuple[DeadLetterSummary, ...] = ()
        self._failing = False

    async def refresh(self) -> None:
        """Take a sample if the last one is too old; a failure leaves the sample empty.

        Former values would say nothing about what Redis holds now, so they are not exported.
        """
        async with self._lock:
            if self._clock() < self._due:
                return
            self._due = self._clock() + MAX_AGE_S
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    status = await snapshot(self._redis, self._settings)
                    totals = [(source.name, source.dead_letters) for source in status.sources]
                    self._dead = await summarize(self._redis, totals, MAX_NEWEST, self._dead)
            except Exception as exc:  # a scrape exports more than this
                if not self._failing:
                    logger.warning(
                        "the content of Redis is missing from the metrics (%s: %s)",
                        type(exc).__name__,
                        exc,
                    )
                self._failing, self._status = True, None
            else:
                self._failing, self._status = False, status

    def collect(self) -> Generator[Metric]:
        """Yield the sample; only its success if it failed."""
        yield GaugeMetricFamily(
            "worker_redis_sample_success",
            "1 if the last sample of the content of Redis succeeded.",
            float(self._status is not None),
        )
        if self._status is not None:
            yield from self._server(self._status)
            yield from self._streams(self._status)
            yield from self._queues(self._status)

    @staticmethod
    def _streams(status: Status) -> Generator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"worker_stream_{name}", text, labels=["stream"])

        lag = gauge("lag_entries", "Entries that have not been delivered to the group.")
        pending = gauge("pending_entries", "Entries that have been delivered and are not settled.")
        oldest = gauge("oldest_pending_seconds", "Age of the oldest pending entry.")
        unread = gauge("oldest_unread_seconds", "Age of the oldest entry that nobody has read.")
        idle = gauge(
            "longest_idle_seconds",
            "Longest time since a pending entry was delivered or its lease renewed.",
        )
        consumers = gauge("consumers", "Consumers of the group.")
        parked = gauge("parked_entries", "Events whose type no worker knows.")
        others = GaugeMetricFamily(
            "worker_stream_other_group_oldest_seconds",
            "Age of the oldest entry that another consumer group has not settled.",
            labels=("stream", "group"),
        )
        for stream in (s for s in status.sources if s.kind == "stream"):
            lag.add_metric([stream.name], stream.waiting)
            pending.add_metric([stream.name], stream.in_work or 0)
            oldest.add_metric([stream.name], stream.oldest_in_work_s or 0.0)
            unread.add_metric([stream.name], stream.oldest_waiting_s or 0.0)
            idle.add_metric([stream.name], stream.longest_idle_s or 0.0)
            consumers.add_metric([stream.name], stream.consumers or 0)
            parked.add_metric([stream.name], stream.parked or 0)
            for other in stream.other_groups:
                others.add_metric([stream.name, other.name], other.oldest_s)
        yield from (lag, pending, oldest, unread, idle, consumers, parked, others)

    @staticmethod
    def _server(status: Status) -> Generator[Metric]:
        yield GaugeMetricFamily(
            "worker_redis_memory_used_bytes", "Memory that Redis uses.", status.info.used_bytes
        )
        yield GaugeMetricFamily(
            "worker_redis_memory_max_bytes",
            "The maxmemory of Redis, 0 for no limit.",
            status.info.max_bytes,
        )

    def _queues(self, status: Status) -> Generator[Metric]:
        jobs = GaugeMetricFamily(
            "worker_queue_jobs",
            "Jobs that are due, that run, or that are deferred.",
            labels=("queue", "state"),
        )
        for queue in (s for s in status.sources if s.kind == "queue"):
            jobs.add_metric((queue.name, "due"), queue.waiting)
            jobs.add_metric((queue.name, "running"), queue.in_work or 0)
            jobs.add_metric((queue.name, "deferred"), queue.later or 0)
        yield jobs
        depth = GaugeMetricFamily(
            "worker_dlq_entries", "Dead letters of a stream or queue.", labels=["source"]
        )
        bound = GaugeMetricFamily(
            "worker_dlq_max_entries",
            "Bound of a dead-letter queue, beyond which its oldest entries are dropped.",
            labels=["source"],
        )
        newest = GaugeMetricFamily(
            "worker_dlq_newest_entries",
            f"The newest {MAX_NEWEST} dead letters, by error.",
            labels=("source", "fingerprint", "error"),
        )
        for dead in self._dead:
            source = dead.source
            depth.add_metric([source], dead.total)
            bound.add_metric([source], self._settings.config.dlq_max_entries)
            for group in dead.groups[:MAX_FINGERPRINTS]:
                newest.add_metric((source, group.fingerprint, _error_class(group)), group.count)
            if rest := sum(group.count for group in dead.groups[MAX_FINGERPRINTS:]):
                newest.add_metric((source, OTHER, OTHER), rest)
        yield from (depth, bound, newest)


def _error_class(group: ErrorGroup) -> str:
    """Return the class of the error; what cannot be a class was not written by a worker."""
    name = group.error.partition(":")[0]
    return name if name.isidentifier() and len(name) <= MAX_CLASS_NAME else OTHER
