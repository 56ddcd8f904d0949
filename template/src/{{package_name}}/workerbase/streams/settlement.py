"""The end of every delivery: acknowledged, handed to a retry job, or set aside.

The last two are one atomic step with the acknowledgement. A Redis that is unavailable or full only
delays it: the entry stays ours, its lease is renewed, and the step is repeated until Redis accepts
it.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from arq.jobs import serialize_job

from ..broker import codec, keys
from ..broker.scripts import Script
from ..engine import failure_record
from ..engine.retry_policy import DeadLetter, Decision, Retry
from ..leasing.batch_writer import BatchWriter
from ..leasing.held_leases import HeldLeases
from ..monitor import Outcome
from ..process.requeue import REQUEUE_TASK
from ..process.service import WorkerContext
from ..types import EntryId, RedisArg, StreamName
from .entry import Delivery, EntryHeader, work_of

logger = logging.getLogger(__name__)

_SCHEDULE_RETRY = Script.load(__name__, "schedule_retry")
_SET_ASIDE = Script.load(__name__, "set_aside")
_DEFER = Script.load(__name__, "defer")

FULL_WAIT_S = 1.0
"""Wait before a message is deferred again where there is no room for it, in seconds."""


@dataclass(kw_only=True, eq=False)
class StreamSettlement:
    """Settles the deliveries of one consumer.

    Raises:
        RedisError, OSError: only while ``draining``; the entry is pending as it was.
    """

    worker: WorkerContext
    held: HeldLeases[Delivery]
    group: str
    consumer: str
    draining: bool = False
    """Do not wait for Redis any more: what is not settled can be released."""

    def __post_init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        """How often each outcome was reached."""
        self.acks: BatchWriter[Delivery] = BatchWriter(
            self._acknowledge, "acknowledging", self.worker.availability
        )
        self._redis = self.worker.commands
        self._queue_name = self.worker.config.queue_name
        self._is_monitored = bool(self.worker.monitors)

    def report(
        self,
        outcome: Outcome,
        delivery: Delivery,
        header: EntryHeader,
        error: BaseException | None = None,
        seconds: float = 0.0,
        *,
        delay: float = 0.0,
    ) -> None:
        """Count, log and report the outcome of a delivery; ``delay`` is that of a retry."""
        self.counts[outcome] += 1
        if error is not None:
            dead = outcome == "dead_lettered"
            logger.log(
                logging.ERROR if dead else logging.WARNING,
                "%s %s of %s: %s after attempt %d (%s: %s)",
                header.name,
                header.message_id,
                delivery.source,
                f"retried in {delay:.1f} s"
                if outcome == "retried"
                else outcome.replace("_", "-" if dead else " "),
                header.attempt,
                type(error).__name__,
                failure_record.text_of(error),
                exc_info=self.worker.tracebacks.first(error) if dead else None,
            )
        if self._is_monitored:
            self.worker.monitors.on_finished(work_of(delivery, header), outcome, error, seconds)

    def handled(self, delivery: Delivery, header: EntryHeader, seconds: float) -> None:
        """Acknowledge, with the next batch, what its handler has handled."""
        delivery.settling = True
        self.acks.add(delivery)
        self.report("handled", delivery, header, None, seconds)

    def skip(self, delivery: Delivery) -> None:
        """Acknowledge, with the next batch, what concerns another consumer group only."""
        delivery.settling = True
        self.acks.add(delivery)
        self.counts["skipped"] += 1

    async def failed(
        self,
        delivery: Delivery,
        header: EntryHeader,
        error: BaseException,
        decision: Decision,
        seconds: float = 0.0,
    ) -> None:
        """Settle a failed delivery as the policy has decided."""
        delivery.settling = True
        delay = 0.0
        if isinstance(decision, DeadLetter):
            outcome = await self.set_aside(delivery, error, decision, header.attempt)
        else:
            delay = decision.delay
            outcome = await self.retry(delivery, error, decision)
        self.held.forget(delivery)
        self.report(outcome, delivery, header, error, seconds, delay=delay)

    async def defer(
        self,
        delivery: Delivery,
        header: EntryHeader,
        error: BaseException | None = None,
        seconds: float = 0.0,
        *,
        limited: bool = True,
    ) -> None:
        """Let a message whose type is held up wait in Redis; it loses no attempt.

        While there is no room for it, this waits: nothing more is read then. ``limited`` counts the
        time that it waits: a breaker holds up a message for a limited time, a pause without limit.
        """
        delivery.settling = True
        stream, payload = delivery.source, codec.decode_fields(delivery.fields)
        payload.setdefault(failure_record.ID, delivery.entry_id)
        payload.setdefault(failure_record.ORIGINAL_ID, delivery.entry_id)
        payload[failure_record.GROUP] = self.group
        if not limited:
            for name in (failure_record.DEFERRED_AT, failure_record.FINAL):
                payload.pop(name, None)
        deferred = keys.deferred(stream, self.group, header.name)
        others = [deferred, keys.deferred_types(stream, self.group)]
        limit = self.worker.config.dlq_max_entries
        args: list[RedisArg] = [header.name, limit, int(limited), *codec.encode_fields(payload)]
        while not (reply := await self._until_accepted(_DEFER, delivery, others, args)):
            logger.error("%s is full; reading waits until there is room", deferred)
            await asyncio.sleep(FULL_WAIT_S)
        self.held.forget(delivery)
        outcome: Outcome = "deferred" if reply > 0 else "lease_lost"
        self.report(outcome, delivery, header, error, seconds)

    async def retry(self, delivery: Delivery, error: BaseException, decision: Retry) -> Outcome:
        """Schedule the job that puts the message back into its stream."""
        stream, entry_id = delivery.source, delivery.entry_id
        failure = failure_record.describe_failure(error, stream, entry_id)
        payload = failure_record.add_failure(codec.decode_fields(delivery.fields), failure)
        payload[failure_record.GROUP] = self.group
        now = int(time.time() * 1000)
        arguments = (stream, payload)
        job = serialize_job(REQUEUE_TASK, arguments, {}, None, now, serializer=codec.dumps)
        job_id = keys.requeue_job_id(stream, self.group, entry_id)
        owned = await self._until_accepted(
            _SCHEDULE_RETRY,
            delivery,
            [keys.job(self._queue_name, job_id), self._queue_name],
            [job_id, job, int(decision.delay * 1000)],
        )
        return "retried" if owned else "lease_lost"

    async def set_aside(
        self, delivery: Delivery, error: BaseException, decision: DeadLetter, attempt: int
    ) -> Outcome:
        """Move the message to the dead-letter queue, or park it if its event type is unknown."""
        stream = delivery.source
        parking = decision.reason == "unknown"
        fields = failure_record.dead_letter(
            codec.decode_fields(delivery.fields),
            failure_record.describe_failure(error, stream, delivery.entry_id),
            decision.reason,
            0 if parking else attempt,
            **{
                failure_record.DELIVERIES: str(delivery.deliveries),
                failure_record.CONSUMER: self.consumer,
                failure_record.GROUP: self.group,
            },
        )
        target = keys.parked(stream) if parking else keys.dlq(stream)
        dropped = await self._until_accepted(
            _SET_ASIDE,
            delivery,
            [target],
            [self.worker.config.dlq_max_entries, *codec.encode_fields(fields)],
        )
        if dropped > 0:
            logger.error(failure_record.FULL, target, dropped)
        if dropped < 0:
            return "lease_lost"
        return "parked" if parking else "dead_lettered"

    async def _until_accepted(
        self, script: Script, delivery: Delivery, others: Sequence[str], args: Sequence[RedisArg]
    ) -> int:
        """Run a script on an entry of this consumer until Redis accepts it.

        ``others`` and ``args`` are its keys behind the stream and its arguments behind the entry.
        """
        owner = "" if delivery.orphaned else self.consumer
        head = [self.group, owner, delivery.entry_id]
        write = partial(script, self._redis, [delivery.source, *others], [*head, *args])
        doing = f"settling an entry of {delivery.source}"
        availability = self.worker.availability
        return int(await availability.retry_until_accepted(doing, write, lambda: self.draining))

    async def _acknowledge(self, handled: list[Delivery]) -> None:
        by_stream: dict[StreamName, list[EntryId]] = defaultdict(list)
        for delivery in handled:
            by_stream[delivery.source].append(delivery.entry_id)
        for stream, ids in by_stream.items():
            await self._redis.execute_command("XACK", stream, self.group, *ids)
        self.held.forget_all(handled)
