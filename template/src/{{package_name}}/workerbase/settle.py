# Owned by arq-worker-template: `copier update` overwrites edits; subscribe to outcomes instead.
"""End the life of a failed entry: hand it to a retry job, or set it aside.

Both are one atomic step with the acknowledgement. Redis being away or full only delays it: the
entry stays ours, its lease is renewed, and the step is repeated until Redis takes it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias

from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from . import deadletter, keys, scripts, wire
from .connect import OUTAGE_ERRORS
from .events import Head
from .lease import Delivery
from .link import RedisLink
from .retry import DeadLetter, Retry
from .types import RedisClient

logger = logging.getLogger(__name__)

REQUEUE_TASK = "requeue_to_stream"

Outcome: TypeAlias = Literal[
    "handled", "retried", "dead_lettered", "parked", "held", "lease_lost", "deleted"
]
"""What became of one delivery; ``held`` means that the breaker keeps it for another try."""

Observer: TypeAlias = Callable[[Outcome, Delivery, Head, BaseException | None], None]


class Outcomes:
    """Counts what became of deliveries, logs failures and tells an observer."""

    def __init__(self, observer: Observer | None) -> None:
        self.counts: Counter[Outcome] = Counter()
        self._observer = observer

    def report(
        self, outcome: Outcome, delivery: Delivery, head: Head, error: BaseException | None = None
    ) -> None:
        """Note one outcome."""
        self.counts[outcome] += 1
        if error is not None:
            logger.warning(
                "%s %s of %s: %s (%s: %s)",
                (head.event_type or b"?").decode(errors="replace"),
                head.message_id,
                delivery.stream,
                outcome.replace("_", " "),
                type(error).__name__,
                deadletter.text_of(error),
            )
        if self._observer is not None:
            self._observer(outcome, delivery, head, error)


class Settler:
    """Settles the failed entries of one consumer.

    Raises:
        RedisError, OSError: only while ``draining``; the entry is pending as it was.
    """

    def __init__(
        self,
        redis: RedisClient,
        link: RedisLink,
        *,
        group: str,
        consumer: str,
        queue_name: str,
        dlq_max_entries: int,
    ) -> None:
        self._redis = redis
        self._link = link
        self._group = group
        self._consumer = consumer
        self._queue_name = queue_name
        self._dlq_max_entries = dlq_max_entries
        self.draining = False
        """Do not wait for Redis any more: what is not settled can be handed back."""

    async def retry(self, delivery: Delivery, error: BaseException, decision: Retry) -> Outcome:
        """Schedule the job that puts the message back into its stream."""
        stream, entry_id = delivery.stream, delivery.entry_id
        failure = deadletter.describe_failure(error, stream, entry_id)
        payload = deadletter.add_failure(wire.pairs(delivery.fields), failure)
        job_id = keys.requeue_job_id(stream, entry_id)
        now_ms = int(time.time() * 1000)
        job = serialize_job(
            REQUEUE_TASK, (stream, payload), {}, None, now_ms, serializer=wire.dumps
        )
        owned = await self._until_written(
            scripts.schedule_retry,
            [stream, job_key_prefix + job_id, self._queue_name],
            [
                self._group,
                self._consumer,
                entry_id,
                job_id,
                job,
                now_ms + int(decision.delay * 1000),
            ],
        )
        return "retried" if owned else "lease_lost"

    async def set_aside(
        self, delivery: Delivery, error: BaseException, decision: DeadLetter, attempt: int
    ) -> Outcome:
        """Move the message to the DLQ, or park it if only its event type is unknown."""
        stream = delivery.stream
        parking = decision.reason == "unknown"
        fields = deadletter.dead_letter(
            wire.pairs(delivery.fields),
            deadletter.describe_failure(error, stream, delivery.entry_id),
            decision.reason,
            0 if parking else attempt,
            **{
                deadletter.DELIVERIES: str(delivery.deliveries),
                deadletter.CONSUMER: self._consumer,
            },
        )
        target = keys.parked(stream) if parking else keys.dlq(stream)
        dropped = await self._until_written(
            scripts.set_aside,
            [stream, target],
            [
                self._group,
                self._consumer,
                delivery.entry_id,
                self._dlq_max_entries,
                *wire.flatten(fields),
            ],
        )
        if dropped > 0:
            logger.error(deadletter.FULL, target, dropped)
        if dropped < 0:
            return "lease_lost"
        return "parked" if parking else "dead_lettered"

    async def _until_written(
        self, script: scripts.Script, keys_: list[str], args: list[str | bytes | int | float]
    ) -> int:
        while True:
            try:
                result = await script(self._redis, keys_, args)
            except OUTAGE_ERRORS as exc:
                if self.draining:
                    raise
                await self._link.wait_after(exc, f"settling an entry of {keys_[0]}")
            else:
                self._link.ok()
                return int(result)
