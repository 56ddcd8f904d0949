"""What a handler is given beside the event."""

from dataclasses import dataclass

from ..monitor import Work
from ..process.service import WorkerContext
from ..types import EntryId, RedisClient, StreamName
from .events import Event
from .publish import publish


@dataclass(slots=True)
class EventContext:
    """What a handler knows about the message, beside the event itself."""

    message_id: str
    """Stays the same over retries and replays: the key for idempotent handlers."""
    event_type: str
    stream: StreamName
    entry_id: EntryId
    attempt: int
    """Counted from 1; a redelivery after a crash is not a new attempt."""
    deliveries: int
    """How often Redis has delivered this entry; above 1 after a crash."""
    redis: RedisClient
    worker: WorkerContext
    """The worker. `task_utils.get_state` returns what the project's lifespan yielded, typed."""

    def as_work(self) -> Work:
        """Describe the message as monitors and logs do."""
        return Work("message", self.stream, self.event_type, self.message_id, self.attempt)

    async def publish(self, *events: Event) -> list[EntryId]:
        """Publish further events over the worker's connection; errors are those of `publish`."""
        limit = self.worker.config.max_payload
        return await publish(self.redis, *events, max_payload_bytes=limit)
