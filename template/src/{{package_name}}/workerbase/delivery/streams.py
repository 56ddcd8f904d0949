# Owned by arq-worker-template: `copier update` overwrites edits; subclass EventPublisher instead.
"""Publish events from an application or a handler.

    events = EventPublisher()
    events.publish_sync(OrderPlaced(order_id=42))
    await events.publish(OrderPlaced(order_id=42))

A lost connection is tried once more, so a message may be published twice; both carry one
``message_id``, by which a handler can tell.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .. import scripts, wire
from ..events import Event, check_named, payload_of
from ..jobqueue import MAX_PAYLOAD
from ..types import EntryId, RedisClient, StreamName
from .clients import AppClients

BATCH = 500
"""Messages that are published in one atomic step."""


async def publish(redis: RedisClient, *events: Event) -> list[EntryId]:
    """Publish over an open client, such as ``EventContext.redis``.

    Returns:
        The entry ids, in the order of ``events`` if they share a stream.

    Raises:
        RegistrationError: an event has no type or stream.
        PayloadError: an event has more than ``WORKER_MAX_PAYLOAD`` bytes; no event of its batch
            is published.
        redis.exceptions.RedisError: Redis did not take them; of several batches, the former are
            published.
    """
    ids: list[EntryId] = []
    most: int = getattr(redis, "max_payload", MAX_PAYLOAD)
    for stream, args in _batches(events, most):
        ids += _ids(await scripts.publish(redis, [stream], args))
    return ids


class EventPublisher(AppClients):
    """Publishes events, with or without an event loop; errors are those of `publish`."""

    async def publish(self, *events: Event) -> list[EntryId]:
        """Publish ``events``."""
        return await publish(self.for_loop, *events)

    def publish_sync(self, *events: Event) -> list[EntryId]:
        """Publish ``events`` without an event loop."""
        ids: list[EntryId] = []
        for stream, args in _batches(events, self.config.max_payload):
            ids += _ids(scripts.publish.run_sync(self.for_threads, [stream], args))
        return ids


def _batches(events: Iterable[Event], most: int) -> Iterable[tuple[StreamName, list[bytes | int]]]:
    by_stream: dict[StreamName, list[Event]] = defaultdict(list)
    for event in events:
        check_named(type(event))
        by_stream[event.stream].append(event)
    for stream, same in by_stream.items():
        for first in range(0, len(same), BATCH):
            batch = same[first : first + BATCH]
            flats = [wire.flatten(payload_of(event)) for event in batch]
            for event, flat in zip(batch, flats, strict=True):
                wire.check_size(f"event {event.event_type}", flat, most)
            yield stream, [len(flats[0]), *(item for flat in flats for item in flat)]


def _ids(reply: Any) -> list[EntryId]:
    return [EntryId(wire.text(entry_id)) for entry_id in reply]
