# Owned by arq-worker-template: `copier update` overwrites edits; call `status.snapshot` instead.
"""What is in Redis, as metrics: looked at now and then, not at each scrape.

All workers of a service show the same numbers here: take the maximum, never the sum.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Generator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .. import keys
from ..config import WorkerConfig
from ..dlq import Group
from ..events import EventRouter
from ..status import Status, snapshot
from ..types import RedisClient
from .overview import DeadLetters, dead_letters

logger = logging.getLogger(__name__)

MAX_AGE_S = 10.0
"""A sample is shown for so long, however often it is asked for."""
TIMEOUT_S = 2.0
"""A scrape waits no longer than this for Redis; Prometheus gives up after ten seconds."""
NEWEST_LETTERS = 200
"""So many dead letters of a queue are looked at, the newest."""
MOST_FINGERPRINTS = 20
"""More different errors than this are counted together."""
MAX_CLASS_NAME = 80
OTHER = "other"


class Sampler(Collector):
    """Looks at Redis for one worker.

    Args:
        redis: the worker's own client.
        config: names the queue and the consumer group.
        router: names the streams.
        clock: for tests.
    """

    def __init__(
        self,
        redis: RedisClient,
        config: WorkerConfig,
        router: EventRouter | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._router = router
        self._sampled = config
        self._clock = clock
        self._lock = asyncio.Lock()
        self._due = float("-inf")
        self._status: Status | None = None
        self._dead: tuple[DeadLetters, ...] = ()
        self._failing = False

    async def refresh(self) -> None:
        """Look again, unless that was done a moment ago; a failure leaves the sample empty.

        What Redis held once is no sign of what it holds now, so nothing old is shown.
        """
        async with self._lock:
            if self._clock() < self._due:
                return
            self._due = self._clock() + MAX_AGE_S
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    status = await snapshot(self._redis, self._sampled, self._router)
                    self._dead = await dead_letters(self._redis, status, NEWEST_LETTERS, self._dead)
            except Exception as exc:  # a scrape has more to show than this
                if not self._failing:
                    logger.warning(
                        "there are no metrics of what is in Redis (%s: %s)", type(exc).__name__, exc
                    )
                self._failing, self._status = True, None
            else:
                self._failing, self._status = False, status

    def collect(self) -> Generator[Metric]:
        """Yield what was found; only the age of the sample if it failed."""
        yield GaugeMetricFamily(
            "worker_redis_sample_success",
            "1 if the last look at what is in Redis succeeded.",
            float(self._status is not None),
        )
        if self._status is not None:
            yield from self._streams(self._status)
            yield from self._queues(self._status)

    @staticmethod
    def _streams(status: Status) -> Generator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"worker_stream_{name}", text, labels=["stream"])

        lag = gauge("lag_entries", "Entries that the group was not given yet.")
        pending = gauge("pending_entries", "Entries that were given and are not settled.")
        oldest = gauge("oldest_pending_seconds", "How long ago the oldest of them was published.")
        consumers = gauge("consumers", "Consumers of the group.")
        parked = gauge("parked_entries", "Events whose type no worker knows.")
        for stream in status.streams:
            lag.add_metric([stream.name], stream.lag)
            pending.add_metric([stream.name], stream.pending)
            oldest.add_metric([stream.name], stream.oldest_pending_s or 0.0)
            consumers.add_metric([stream.name], stream.consumers)
            parked.add_metric([stream.name], stream.parked)
        yield from (lag, pending, oldest, consumers, parked)

    def _queues(self, status: Status) -> Generator[Metric]:
        jobs = GaugeMetricFamily(
            "worker_queue_jobs", "Jobs that are due, or run and wait.", labels=("queue", "state")
        )
        jobs.add_metric((status.queue.name, "due"), status.queue.due)
        jobs.add_metric((status.queue.name, "deferred"), status.queue.deferred)
        yield jobs
        depth = GaugeMetricFamily(
            "worker_dlq_entries", "Dead letters of a stream or queue.", labels=["source"]
        )
        newest = GaugeMetricFamily(
            "worker_dlq_newest_entries",
            f"The newest {NEWEST_LETTERS} dead letters, by error.",
            labels=("source", "fingerprint", "error"),
        )
        for dead in self._dead:
            source = dead.name.removesuffix(keys.DLQ_SUFFIX)
            depth.add_metric([source], dead.total)
            for group in dead.groups[:MOST_FINGERPRINTS]:
                newest.add_metric((source, group.fingerprint, _error_class(group)), group.count)
            if rest := sum(group.count for group in dead.groups[MOST_FINGERPRINTS:]):
                newest.add_metric((source, OTHER, OTHER), rest)
        yield from (depth, newest)


def _error_class(group: Group) -> str:
    """Return the class of the error; what cannot be one was not written by a worker."""
    name = group.error.partition(":")[0]
    return name if name.isidentifier() and len(name) <= MAX_CLASS_NAME else OTHER
