"""The workload of messages: a part of demo and chaos for projects that have streams."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from arq.jobs import Job

from ...broker import codec, keys
from ...broker.enqueue import QueueClient
from ...broker.entries import pages
from ...config import WorkerConfig
from ...engine.failure_record import DATA, TYPE
from ...monitor import Kind
from ...process.requeue import REQUEUE_TASK
from ...process.service import Service
from ...process.task import AnyFunction
from ...streams import Event, EventContext, EventRouter, Stream, Streams, StreamsConfig
from ...streams.config import group_of
from ...streams.publish import publish, publish_fields
from ...types import Payload, RedisClient
from ..workload import Item, ItemKind, perform

STREAM = "demo"
GROUP = "demo"

router = EventRouter(Stream(STREAM, start="beginning", own=True))


class Work(Event, type="work", stream=STREAM):
    """One item."""

    number: int
    kind: ItemKind = "good"
    seconds: float = 0.0


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Do one item."""
    record = record_of(group_of(ctx.worker.config))
    await perform(ctx.redis, record, Item.model_validate(event.model_dump()), ctx.attempt)


def record_of(group: str) -> str:
    """Return the hash in which a consumer group counts what it has done."""
    return f"chaos:handled:{group}"


class Messages:
    """Items as messages of a stream, read by one consumer group.

    Args:
        group: the consumer group.
        queue: of its service, through which failed messages come back.
    """

    kind: Kind = "message"
    source = STREAM
    config_type: type[WorkerConfig] = StreamsConfig
    demo_settings: Mapping[str, object] = MappingProxyType(
        # In the end only items are left that fail, which is not an outage to wait for.
        {"consumer_group": GROUP, "breaker_threshold": 1_000_000}
    )

    def __init__(self, group: str = GROUP, queue: str = keys.DEFAULT_QUEUE) -> None:
        self.group = group
        self.name = "messages" if group == GROUP else f"messages of {group}"
        self.record = record_of(group)
        self._queue = queue

    @property
    def survives_kills(self) -> bool:
        """Whether an item that kills its worker again and again leaves a dead letter."""
        return True

    def services(self) -> Sequence[Service]:
        """Return streams."""
        return (Streams(router),)

    def functions(self, attempts: int) -> Sequence[AnyFunction]:
        """Return nothing: a message needs no function of its own."""
        del attempts
        return ()

    async def send(self, client: QueueClient, items: Sequence[Item]) -> None:
        """Publish items."""
        events = (Work.model_validate(item.model_dump()) for item in items)
        await publish(cast("RedisClient", client), *events)

    async def send_strange(self, client: QueueClient) -> Mapping[str, int]:
        """Publish a message that does not fit its model, and one of an unknown type."""
        redis = cast("RedisClient", client)
        await publish_fields(redis, STREAM, {TYPE: Work.event_type, DATA: '{"number": "many"}'})
        await publish_fields(redis, STREAM, {TYPE: "holiday", DATA: "{}"})
        return {"invalid": 1, "unknown": 1}

    def item_of(self, dead_letter: Payload) -> Item:
        """Return the item of a dead letter."""
        return Item.model_validate_json(dead_letter[DATA])

    async def waiting(self, client: QueueClient) -> set[int]:
        """Return the items in the stream, those deferred, and those in the jobs that retry them."""
        found: set[int] = set()
        redis = cast("RedisClient", client)
        for stream in (STREAM, keys.deferred(STREAM, self.group, Work.event_type)):
            async for page in pages(redis, stream):
                found |= {self.item_of(payload).number for _, payload in page}
        for job_id in await redis.execute_command("ZRANGE", self._queue, 0, -1):
            job = await Job(job_id.decode(), client, _deserializer=codec.loads).info()
            if job is not None and job.function == REQUEUE_TASK:
                found.add(self.item_of(cast("Payload", job.args[1])).number)
        return found

    async def is_settled(self, client: QueueClient) -> bool:
        """Return whether nothing is pending, deferred or to be retried."""
        redis = cast("RedisClient", client)
        pending = (await redis.execute_command("XPENDING", STREAM, self.group))["pending"]
        types = keys.deferred_types(STREAM, self.group)
        waits = await redis.execute_command("EXISTS", types) or await client.zcard(self._queue)
        return not pending and not waits

    async def holds(self, client: QueueClient, pid: int) -> bool:
        """Return whether a worker process has pending entries."""
        rows: list[list[Any]] = await cast("RedisClient", client).execute_command(
            "XINFO", "CONSUMERS", STREAM, self.group
        )
        return any(r[r.index(b"pending") + 1] for r in rows if b"-%d-" % pid in r[1])
