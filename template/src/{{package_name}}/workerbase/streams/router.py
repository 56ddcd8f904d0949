"""Handlers, registered for the events that they handle.

router = EventRouter(Stream("orders", start="beginning", own=True))

@router.on(OrderPlaced)
async def confirm(event: OrderPlaced, ctx: EventContext) -> None: ...
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

from pydantic import ValidationError

from ..broker import codec
from ..engine import current_run
from ..errors import InvalidEventError, RegistrationError, UnknownEventError
from ..types import StreamName
from .breaker import EventKey
from .context import EventContext
from .events import Event, check_named
from .stream import Start, Stream

E = TypeVar("E", bound=Event)

Handler: TypeAlias = Callable[[E, EventContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route(Generic[E]):
    """A handler and the model that it handles."""

    model: type[E]
    handler: Handler[E]

    async def run(self, data: bytes, ctx: EventContext) -> None:
        """Validate and handle one message.

        Raises:
            InvalidEventError: ``data`` does not fit the model.
        """
        current_run.described.set(ctx.as_work)
        try:
            event = self.model.model_validate_json(data)
        except ValidationError as exc:
            raise InvalidEventError.from_validation_error(self.model.event_type, exc) from None
        await self.handler(event, ctx)


class EventRouter:
    """The handlers of a worker, one for each event type of a stream.

    Args:
        declared: what the project declares about the streams; see `Stream`.

    Raises:
        RegistrationError: a stream is declared in two ways.
    """

    def __init__(self, *declared: Stream) -> None:
        self._routes: dict[EventKey, Route[Any]] = {}
        self.ignored: set[EventKey] = set()
        """Types whose messages are acknowledged unhandled; see `ignore`."""
        self._declared: dict[StreamName, Stream] = {}
        for stream in declared:
            self._declare(stream)

    def _declare(self, stream: Stream) -> None:
        known = self._declared.setdefault(stream.name, stream)
        if known != stream:
            msg = f"the stream {stream.name!r} is declared twice: {known} and {stream}"
            raise RegistrationError(msg)

    def start_of(self, stream: StreamName) -> Start | None:
        """Return where a new group starts; None if the project does not declare the stream."""
        declared = self._declared.get(stream)
        return declared.start if declared else None

    def owns(self, stream: StreamName) -> bool:
        """Whether the project declares the stream its own."""
        declared = self._declared.get(stream)
        return declared is not None and declared.own

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
            if key in self.ignored:
                msg = f"{model.event_type!r} on {model.stream!r} is ignored and needs no handler"
                raise RegistrationError(msg)
            for stream, event_type in self._routes:
                if event_type == key[1] and stream != model.stream:
                    msg = (
                        f"the event {model.event_type!r} of {model.stream!r} has a handler on "
                        f"{stream!r} already; an event type belongs to one stream"
                    )
                    raise RegistrationError(msg)
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

    def ignore(self, stream: StreamName, *event_types: str) -> None:
        """Acknowledge messages of these types unhandled, instead of parking them.

        For a stream that other services handle, too: what concerns only them is not to wait for a
        handler here.

        Raises:
            RegistrationError: a type has a handler.
        """
        for event_type in event_types:
            if self.knows(stream, event_type):
                msg = f"{event_type!r} on {stream!r} has a handler and cannot be ignored"
                raise RegistrationError(msg)
            self.ignored.add((stream, event_type.encode()))

    def include(self, other: "EventRouter") -> None:
        """Add all of ``other``, so that a project can spread its handlers over modules."""
        for declared in other._declared.values():  # noqa: SLF001
            self._declare(declared)
        for route in other._routes.values():  # noqa: SLF001
            self.on(route.model)(route.handler)
        for stream, event_type in other.ignored:
            self.ignore(stream, event_type.decode())

    @property
    def streams(self) -> tuple[StreamName, ...]:
        """The streams that have handlers."""
        return tuple(dict.fromkeys(stream for stream, _ in self._routes))

    @property
    def models(self) -> dict[str, type[Event]]:
        """The events that have handlers, by type."""
        return {route.model.event_type: route.model for route in self._routes.values()}

    def handlers(self, stream: StreamName) -> dict[str, Handler[Any]]:
        """Return the handlers of ``stream``, by event type."""
        return {t.decode(): r.handler for (name, t), r in self._routes.items() if name == stream}

    def types(self, stream: StreamName) -> tuple[str, ...]:
        """Return the event types of ``stream`` that have a handler."""
        return tuple(kind.decode() for name, kind in self._routes if name == stream)

    def knows(self, stream: StreamName, event_type: str) -> bool:
        """Whether a handler is registered."""
        return (stream, codec.encode(event_type)) in self._routes

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
