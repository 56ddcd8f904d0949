"""Streams: a feature that handles events of Redis Streams in a consumer group, at least once.

Failed messages are retried by `base.requeue_to_stream`, dead-lettered or parked. May import the
core; knows nothing of `jobs`.
"""

from .config import StreamsConfig
from .context import EventContext
from .events import Event
from .publish import EventPublisher, publish, publish_fields
from .router import EventRouter
from .service import Streams
from .stream import Stream

__all__ = [
    "Event",
    "EventContext",
    "EventPublisher",
    "EventRouter",
    "Stream",
    "Streams",
    "StreamsConfig",
    "publish",
    "publish_fields",
]
