# Owned by arq-worker-template: `copier update` overwrites edits; add a Monitor instead.
"""The end of every delivery: acknowledged, handed to a retry job, or set aside.

The last two are one atomic step with the acknowledgement. Redis being away or full only delays
it: the entry stays ours, its lease is renewed, and the step is repeated until Redis takes it.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import partial

from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from . import deadletter, keys, scripts, wire
from .batch import Batcher
from .events import Head
from .lease import Delivery, Held
from .link import RedisLink
from .monitor import Monitors, Outcome, Work
from .retry import DeadLetter, Decision, Retry
from .types import EntryId, RedisArg, RedisClient, StreamName

logger = logging.getLogger(__name__)

REQUEUE_TASK = "requeue_to_stream"


class Settler:
    """Holds the deliveries of one consumer and settles them.

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
        streams: Collection[StreamName] = (),
        monitors: Monitors | None = None,
    ) -> None:
        self.held: Held = {stream: {} for stream in streams}
        """What this consumer has and has not settled: the entries whose leases it renews."""
        self.counts: Counter[Outcome] = Counter()
        """How often each outcome was reached."""
        self.monitors = monitors or Monitors()
        self.link = link
        self.acks: Batcher[Delivery] = Batcher(self._acknowledge, "acknowledging", link)
        self.draining = False
        """Do not wait for Redis any more: what is not settled can be handed back."""
        self._redis = redis
        self._group = group
        self._consumer = consumer
        self._queue_name = queue_name
        self._dlq_max_entries = dlq_max_entries

    def report(
        self,
        outcome: Outcome,
        delivery: Delivery,
        head: Head,
        error: BaseException | None = None,
        seconds: float = 0.0,
        *,
        delay: float = 0.0,
    ) -> None:
        """Count, log and tell what became of a delivery; ``delay`` is that of a retry."""
        self.counts[outcome] += 1
        if error is not None:
            given_up = outcome == "dead_lettered"
            logger.log(
                logging.ERROR if given_up else logging.WARNING,
                "%s %s of %s: %s after try %d (%s: %s)",
                head.name,
                head.message_id,
                delivery.stream,
                f"retried in {delay:.1f} s"
                if outcome == "retried"
                else outcome.replace("_", "-" if given_up else " "),
                head.attempt,
                type(error).__name__,
                deadletter.text_of(error),
                exc_info=error if given_up else None,
            )
        if self.monitors:
            self.monitors.ended(work_of(delivery, head), outcome, error, seconds)

    def handled(self, delivery: Delivery, head: Head, seconds: float) -> None:
        """Acknowledge soon what its handler has handled."""
        delivery.settling = True
        self.acks.add(delivery)
        self.report("handled", delivery, head, None, seconds)

    async def failed(
        self,
        delivery: Delivery,
        head: Head,
        error: BaseException,
        decision: Decision,
        seconds: float = 0.0,
    ) -> None:
        """Settle what failed as the policy has decided."""
        delivery.settling = True
        delay = 0.0
        if isinstance(decision, DeadLetter):
            outcome = await self.set_aside(delivery, error, decision, head.attempt)
        else:
            delay = decision.delay
            outcome = await self.retry(delivery, error, decision)
        self.let_go(delivery)
        self.report(outcome, delivery, head, error, seconds, delay=delay)

    def let_go(self, delivery: Delivery) -> None:
        """Renew the lease of this entry no more."""
        self.held[delivery.stream].pop(delivery.entry_id, None)

    async def retry(self, delivery: Delivery, error: BaseException, decision: Retry) -> Outcome:
        """Schedule the job that puts the message back into its stream."""
        stream, entry_id = delivery.stream, delivery.entry_id
        failure = deadletter.describe_failure(error, stream, entry_id)
        payload = deadletter.add_failure(wire.pairs(delivery.fields), failure)
        job_id = keys.requeue_job_id(stream, entry_id)
        now = int(time.time() * 1000)
        job = serialize_job(REQUEUE_TASK, (stream, payload), {}, None, now, serializer=wire.dumps)
        owned = await self._until_taken(
            scripts.schedule_retry,
            [stream, job_key_prefix + job_id, self._queue_name],
            [entry_id, job_id, job, now + int(decision.delay * 1000)],
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
        dropped = await self._until_taken(
            scripts.set_aside,
            [stream, target],
            [delivery.entry_id, self._dlq_max_entries, *wire.flatten(fields)],
        )
        if dropped > 0:
            logger.error(deadletter.FULL, target, dropped)
        if dropped < 0:
            return "lease_lost"
        return "parked" if parking else "dead_lettered"

    async def _until_taken(
        self, script: scripts.Script, keys_: Sequence[str], args: Sequence[RedisArg]
    ) -> int:
        write = partial(script, self._redis, keys_, [self._group, self._consumer, *args])
        doing = f"settling an entry of {keys_[0]}"
        return int(await self.link.until_taken(doing, write, lambda: self.draining))

    async def _acknowledge(self, handled: list[Delivery]) -> None:
        by_stream: dict[StreamName, list[EntryId]] = defaultdict(list)
        for delivery in handled:
            by_stream[delivery.stream].append(delivery.entry_id)
        for stream, ids in by_stream.items():
            await self._redis.execute_command("XACK", stream, self._group, *ids)
        for delivery in handled:
            self.let_go(delivery)


def work_of(delivery: Delivery, head: Head) -> Work:
    """Describe a message for monitors."""
    return Work(
        "message",
        delivery.stream,
        head.name,
        head.message_id,
        head.attempt,
        head.data,
        head.trace,
    )
