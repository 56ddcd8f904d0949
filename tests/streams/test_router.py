"""The router: each event type has one handler, and mistakes are reported at registration."""

import math

import pytest
from pydantic import Field, Json
from workerbase.errors import RegistrationError
from workerbase.streams import Event, EventContext, EventRouter
from workerbase.streams.publish import payload_of
from workerbase.streams.router import Route
from workerbase.types import EntryId


class Placed(Event, type="placed", stream="orders"):
    """An order."""


class Renamed(Placed, type="renamed"):
    """Another type on the same stream."""


class Nameless(Event, stream="orders"):
    """No type."""


class Homeless(Event, type="homeless"):
    """No stream."""


async def handler(event: Event, ctx: EventContext) -> None:
    """Do nothing."""


def test_names_are_inherited_where_they_are_not_given() -> None:
    assert (Renamed.event_type, Renamed.stream) == ("renamed", "orders")


@pytest.mark.parametrize("model", [Nameless, Homeless])
def test_an_event_without_a_type_or_a_stream_is_refused(model: type[Event]) -> None:
    with pytest.raises(RegistrationError, match=f"{model.__name__} needs a type and a stream"):
        EventRouter().on(model)


def test_a_handler_that_is_not_async_is_refused() -> None:
    def plain(event: Event, ctx: EventContext) -> None: ...

    with pytest.raises(RegistrationError, match="the handler of Placed is not an async function"):
        EventRouter().on(Placed)(plain)  # type: ignore[arg-type]


def test_a_handler_that_does_not_take_event_and_context_is_refused() -> None:
    async def short(event: Event) -> None: ...

    with pytest.raises(RegistrationError, match=r"the handler of Placed must take \(event, ctx\)"):
        EventRouter().on(Placed)(short)  # type: ignore[arg-type]


def test_a_second_handler_is_refused_with_the_name_of_the_first() -> None:
    router = EventRouter()
    router.on(Placed)(handler)
    with pytest.raises(RegistrationError, match=r"already has the handler .*test_router\.handler"):
        router.on(Placed)(handler)


async def test_an_event_is_read_as_it_was_published() -> None:
    class Rich(Event, type="rich", stream="orders"):
        order_id: int = Field(alias="orderId")
        ratio: float = math.inf
        nested: Json[dict[str, int]] = Field(default_factory=lambda: {"a": 1})

    seen: list[Event] = []

    async def see(event: Event, ctx: EventContext) -> None:
        seen.append(event)

    event = Rich.model_validate({"orderId": 7, "nested": '{"a": 2}'})
    context = EventContext("1", "rich", "orders", EntryId("1-0"), 1, 1, None, {})  # type: ignore[arg-type]
    await Route(Rich, see).run(payload_of(event)["data"].encode(), context)
    await Route(Rich, see).run(b'{"orderId": 7, "nested": "{\\"a\\": 2}"}', context)
    assert seen == [event, event]


def test_routers_of_several_modules_become_one() -> None:
    router, orders = EventRouter(), EventRouter()
    orders.on(Placed)(handler)
    orders.on(Renamed)(handler)
    router.include(orders)
    assert router.streams == ("orders",)
    assert router.knows("orders", "renamed")
    assert not router.knows("orders", "unheard of")
    assert not router.knows("elsewhere", "renamed")
    with pytest.raises(RegistrationError, match="already has the handler"):
        router.include(orders)


def test_an_event_type_belongs_to_one_stream() -> None:
    class Paid(Event, type="order.paid", stream="orders"):
        pass

    class PaidElsewhere(Event, type="order.paid", stream="billing"):
        pass

    router = EventRouter()

    @router.on(Paid)
    async def on_paid(event: Paid, ctx: EventContext) -> None: ...

    with pytest.raises(RegistrationError, match=r"'order.paid' of 'billing' .* on 'orders'"):

        @router.on(PaidElsewhere)
        async def on_paid_elsewhere(event: PaidElsewhere, ctx: EventContext) -> None: ...
