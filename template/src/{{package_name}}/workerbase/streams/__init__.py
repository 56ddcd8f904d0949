"""Streams: a feature that handles events of Redis Streams in a consumer group, at least once.

Failed messages are retried by `base.requeue_to_stream`, dead-lettered or parked. May import the
core; knows nothing of `jobs`.
"""

from typing import TYPE_CHECKING

from .config import StreamsConfig
from .context import EventContext
from .events import Event
from .publish import EventPublisher, publish, publish_fields
from .router import EventRouter
from .service import Streams
from .stream import Stream

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from ..former_names import refuse

    _SERVICE = "list Streams(router) in the `services` of the worker's settings"
    __getattr__ = refuse(
        {
            "StreamConsumer": _SERVICE,
            "StreamDispatcher": _SERVICE,
            "StreamProcessor": _SERVICE,
            "StreamProducer": "use EventPublisher, or publish in a worker",
            "StreamRouter": "use EventRouter, and an Event for each type",
        }
    )

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
