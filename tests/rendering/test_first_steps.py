"""A newcomer's slips are told in one clear sentence, as soon as the worker is imported."""

from typing import Any, cast

import pytest
from workerbase import BaseArqWorkerSettings, Ctx
from workerbase.errors import RegistrationError, SettingsError
from workerbase.streams import Event, EventContext, EventRouter


async def resize_image(ctx: Ctx, name: str) -> None: ...


class OrderPaid(Event, type="order.paid", stream="orders"):
    order_id: int


def test_a_forgotten_comma_in_the_list_of_tasks_is_named() -> None:
    with pytest.raises(SettingsError, match=r"Worker\.functions must be .* comma missing"):

        class Worker(BaseArqWorkerSettings):
            functions = resize_image  # (resize_image) without its comma


def test_a_handler_that_is_not_async_is_refused() -> None:
    def on_order_paid(event: OrderPaid, ctx: EventContext) -> None: ...

    with pytest.raises(RegistrationError, match="handler of OrderPaid is not an async function"):
        EventRouter().on(OrderPaid)(cast("Any", on_order_paid))


def test_a_second_handler_of_an_event_is_refused_and_the_first_is_named() -> None:
    router = EventRouter()

    @router.on(OrderPaid)
    async def bill(event: OrderPaid, ctx: EventContext) -> None: ...

    with pytest.raises(RegistrationError, match=r"already has the handler .*bill"):
        router.on(OrderPaid)(bill)


def test_a_mistyped_setting_is_refused_and_the_right_one_is_named() -> None:
    with pytest.raises(SettingsError, match="did you mean 'max_jobs'"):

        class Worker(BaseArqWorkerSettings):
            max_job = 3
