# Owned by arq-worker-template: `copier update` overwrites edits; declare events in your own module.
"""Events and the handlers that are registered for them.

class OrderPlaced(Event, type="order.placed", stream="orders"):
    order_id: int

router = EventRouter()

@router.on(OrderPlaced)
async def confirm(event: OrderPlaced, ctx: EventContext) -> None: ...
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, cast
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from . import propagation, wire
from .deadletter import MAX_DIGITS
from .errors import InvalidEventError, RegistrationError, UnknownEventError
from .keys import check_stream_name
from .lease import Delivery
from .types import Ctx, EntryId, Payload, RedisClient, StreamName

TYPE, DATA, ID, RETRIES = "type", "data", "_id", "_retries"
"""Fields of a stream entry: event type, JSON of the model, message id, retries so far."""


class Event(BaseModel):
    """Base of the events of a stream: a pydantic model with the name it travels under.

    Fields that the model does not know are ignored, so that a publisher may be newer than its
    readers; fields that it needs and does not get make the message invalid.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        # What is published has the names of the fields; a publisher of another kind has aliases.
        populate_by_name=True,
        ser_json_inf_nan="strings",
    )

    event_type: ClassVar[str] = ""
    stream: ClassVar[StreamName] = ""

    def __init_subclass__(cls, *, type: str = "", stream: str = "", **kwargs: Any) -> None:  # noqa: A002
        """Name the event; both names are inherited where they are not given."""
        super().__init_subclass__(**kwargs)
        if type:
            cls.event_type = type
        if stream:
            cls.stream = check_stream_name(stream)


def check_named(model: type[Event]) -> None:
    """Refuse an event that could not be published.

    Raises:
        RegistrationError: the model has no type or stream.
    """
    if not model.event_type or not model.stream:
        name = model.__name__
        msg = f'{name} needs a type and a stream: class {name}(Event, type="…", stream="…")'
        raise RegistrationError(msg)


E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class EventContext:
    """What a handler may know about the message besides the event itself."""

    message_id: str
    """Stays the same over retries and replays: the key to make a handler idempotent."""
    event_type: str
    stream: StreamName
    entry_id: EntryId
    attempt: int
    """Counted from 1; a redelivery after a crash is not a new attempt."""
    deliveries: int
    """How often Redis has delivered this entry; above 1 after a crash."""
    redis: RedisClient
    worker: Ctx
    """The worker's ``ctx``: what the startup hook and the lifespan put there."""


Handler: TypeAlias = Callable[[E, EventContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route(Generic[E]):
    """A handler and the model of what it handles."""

    model: type[E]
    handler: Handler[E]

    async def run(self, data: bytes, ctx: EventContext) -> None:
        """Validate and handle one message.

        Raises:
            InvalidEventError: ``data`` does not fit the model.
        """
        try:
            event = self.model.model_validate_json(data)
        except ValidationError as exc:
            raise InvalidEventError.of(self.model.event_type, exc) from None
        await self.handler(event, ctx)


class EventRouter:
    """The handlers of a worker, one for each event type of a stream."""

    def __init__(self) -> None:
        self._routes: dict[tuple[StreamName, bytes], Route[Any]] = {}

    def on(self, model: type[E]) -> Callable[[Handler[E]], Handler[E]]:
        """Register the decorated function for ``model``; type checkers compare the two.

        Raises:
            RegistrationError: the model has no type or stream, another handler has it, or the
                function is not async.
        """
        check_named(model)

        def register(handler: Handler[E]) -> Handler[E]:
            if not inspect.iscoroutinefunction(handler):
                msg = f"the handler of {model.__name__} is not an async function: {handler!r}"
                raise RegistrationError(msg)
            try:
                inspect.signature(handler).bind(None, None)
            except TypeError as exc:
                msg = f"the handler of {model.__name__} must take (event, ctx): {exc}"
                raise RegistrationError(msg) from exc
            key = model.stream, model.event_type.encode()
            if key in self._routes:
                other = cast("Any", self._routes[key].handler)
                msg = (
                    f"{model.event_type!r} on {model.stream!r} already has the handler "
                    f"{other.__module__}.{other.__qualname__}"
                )
                raise RegistrationError(msg)
            self._routes[key] = Route(model, handler)
            return handler

        return register

    def include(self, other: "EventRouter") -> None:
        """Take over the handlers of ``other``, so that a project can spread them over modules."""
        for route in other._routes.values():  # noqa: SLF001
            self.on(route.model)(route.handler)

    @property
    def streams(self) -> tuple[StreamName, ...]:
        """The streams that have handlers."""
        return tuple(dict.fromkeys(stream for stream, _ in self._routes))

    @property
    def models(self) -> dict[str, type[Event]]:
        """The events that have handlers, by type."""
        return {route.model.event_type: route.model for route in self._routes.values()}

    def knows(self, stream: StreamName, event_type: str) -> bool:
        """Whether a handler is registered."""
        return (stream, wire.encode(event_type)) in self._routes

    def route(self, stream: StreamName, event_type: bytes) -> Route[Any]:
        """Return the route of a message.

        Raises:
            UnknownEventError: no handler is registered for it.
        """
        try:
            return self._routes[stream, event_type]
        except KeyError:
            msg = f"no handler for event type {event_type.decode(errors='replace')!r} on {stream!r}"
            raise UnknownEventError(msg) from None


@dataclass(slots=True)
class Head:
    """The fields of an entry that decide where it goes, read without decoding the rest."""

    message_id: str
    event_type: bytes | None = None
    data: bytes = b""
    attempt: int = 1
    """The number of this try, counted from 1."""
    trace: str = ""
    """W3C ``traceparent`` of the publisher, if it sent one."""
    problem: str = ""
    """What is wrong with the entry, if anything."""

    @classmethod
    def of(cls, delivery: Delivery) -> "Head":
        """Pick the fields; the id of an entry that brings none is its entry id."""
        head = cls(delivery.entry_id)
        fields = delivery.fields
        for index in range(0, len(fields), 2):
            match fields[index]:
                case b"type":
                    head.event_type = fields[index + 1]
                case b"data":
                    head.data = fields[index + 1]
                case b"_id":
                    head.message_id = fields[index + 1].decode(errors="replace")
                case b"_retries":
                    if fields[index + 1].isdigit() and len(fields[index + 1]) < MAX_DIGITS:
                        head.attempt = int(fields[index + 1]) + 1
                    else:
                        head.problem = f"_retries is {fields[index + 1][:20]!r}, not a number"
                case b"_trace":
                    head.trace = fields[index + 1].decode(errors="replace")
                case _:
                    pass
        if head.event_type is None:
            head.problem = "the entry has no 'type' field"
        return head

    @property
    def name(self) -> str:
        """The event type as text."""
        return (self.event_type or b"?").decode(errors="replace")


def payload_of(event: Event) -> Payload:
    """Return the fields under which ``event`` is published; each call makes a new message."""
    payload = {
        TYPE: event.event_type,
        DATA: event.model_dump_json(round_trip=True),
        ID: uuid4().hex,
    }
    if trace := propagation.traceparent():
        payload[propagation.FIELD] = trace
    return payload
