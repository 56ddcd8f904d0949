"""Publishes events from an application or a handler.

    events = EventPublisher()
    events.publish_sync(OrderPlaced(order_id=42))
    await events.publish(OrderPlaced(order_id=42))

After a lost connection a batch is sent once more, so a message may be published twice; both copies
carry one ``message_id``, by which a handler can recognize them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from ..broker import codec, trace_context
from ..broker.codec import MAX_PAYLOAD_BYTES
from ..broker.model_json import dump_model
from ..broker.scripts import Script
from ..delivery.clients import AppClients
from ..engine.failure_record import DATA, ID, TYPE
from ..types import EntryId, Fields, Payload, RedisArg, RedisClient, StreamName
from .events import Event, check_named

_PUBLISH = Script.load(__name__, "publish")

MAX_BATCH = 500
"""Maximum number of messages that are published in one atomic step."""


async def publish(
    redis: RedisClient, *events: Event, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> list[EntryId]:
    """Publish over an open client; a handler uses ``EventContext.publish``.

    Returns:
        The entry ids, in the order of ``events`` if they share a stream.

    Raises:
        RegistrationError: an event has no type or stream.
        PayloadError: an event is larger than ``max_payload_bytes``, or would be read differently
            from how it is; no event of its batch is published.
        redis.exceptions.RedisError: Redis did not accept them; of several batches, the former are
            published.
    """
    ids: list[EntryId] = []
    for stream, messages in _batches(events, max_payload_bytes):
        ids += _ids(await _PUBLISH(redis, [stream], _args(messages)))
    return ids


async def publish_fields(redis: RedisClient, stream: StreamName, fields: Fields) -> EntryId:
    """Publish one entry with these fields as they are, valid or not: for tests and migrations."""
    reply = await _PUBLISH(redis, [stream], _args([codec.encode_fields(fields)]))
    return _ids(reply)[0]


class EventPublisher(AppClients):
    """Publishes events, with or without an event loop; errors are those of `publish`."""

    async def publish(self, *events: Event) -> list[EntryId]:
        """Publish ``events``."""
        limit = self.config.max_payload
        return await publish(self.commands, *events, max_payload_bytes=limit)

    def publish_sync(self, *events: Event) -> list[EntryId]:
        """Publish ``events`` without an event loop."""
        ids: list[EntryId] = []
        for stream, messages in _batches(events, self.config.max_payload):
            ids += _ids(_PUBLISH.run_sync(self.for_threads, [stream], _args(messages)))
        return ids


def payload_of(event: Event) -> Payload:
    """Return the fields under which ``event`` is published; each call makes a new message.

    Raises:
        PayloadError: the event would be read differently from how it is.
    """
    payload = {
        TYPE: event.event_type,
        DATA: dump_model(event, f"event {event.event_type}"),
        ID: uuid4().hex,
    }
    if trace := trace_context.traceparent():
        payload[trace_context.FIELD] = trace
    return payload


def _batches(
    events: Iterable[Event], max_payload_bytes: int
) -> Iterator[tuple[StreamName, list[list[bytes]]]]:
    by_stream: dict[StreamName, list[Event]] = defaultdict(list)
    for event in events:
        check_named(type(event))
        by_stream[event.stream].append(event)
    for stream, same in by_stream.items():
        for first in range(0, len(same), MAX_BATCH):
            batch = same[first : first + MAX_BATCH]
            messages = [codec.encode_fields(payload_of(event)) for event in batch]
            for event, message in zip(batch, messages, strict=True):
                codec.check_size(f"event {event.event_type}", message, max_payload_bytes)
            yield stream, messages


def _args(messages: Sequence[Sequence[bytes]]) -> list[RedisArg]:
    """Return the arguments of ``lua/publish.lua`` for messages with the same number of fields."""
    return [len(messages[0]), *(value for message in messages for value in message)]


def _ids(reply: Any) -> list[EntryId]:
    return [EntryId(codec.decode(entry_id)) for entry_id in reply]
