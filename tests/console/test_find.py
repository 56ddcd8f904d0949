"""A message or job is found by any id that somebody may know, wherever it is."""

from collections.abc import Callable
from typing import Any

import pytest
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.broker import keys
from workerbase.console.inspector.find import find
from workerbase.console.inspector.jobs import Jobs
from workerbase.jobs import LeasedJobs
from workerbase.process.service import ResolvedSettings
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams, publish, publish_fields
from workerbase.testing import Server
from workerconfig import Config
from workerkit import client_of, working

ConfigFor = Callable[..., Config]


class Placed(Event, type="order.placed", stream="orders"):
    order_id: int


@task(max_retries=1)
async def bill(ctx: Ctx, order_id: int) -> None:
    raise ValueError("no such account")


router = EventRouter()


@router.on(Placed)
async def on_placed(event: Placed, ctx: EventContext) -> None:
    if event.order_id == 4711:
        raise ValueError("no stock")


def settings_for(config: Config) -> type[BaseArqWorkerSettings]:
    members: dict[str, Any] = {
        "config": config,
        "functions": [bill],
        "services": (Streams(router), LeasedJobs()),
    }
    return type("Settings", (BaseArqWorkerSettings,), members)


@pytest.fixture
def config(each_server: Server, config_for: ConfigFor) -> Config:
    return config_for(each_server, max_retries=1, consumer_group="shop")


@pytest.fixture
def settings(config: Config) -> ResolvedSettings:
    return resolved_settings(settings_for(config))


async def test_a_waiting_message_is_found_by_message_entry_and_order(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client:
        (entry_id,) = await publish(client, Placed(order_id=4712))
        ((_, fields),) = await client.xrange("orders")
        message_id = fields[b"_id"].decode()
        for wanted, in_payload in ((message_id, False), (entry_id, False), ("4712", True)):
            (found,) = (await find(client, settings, wanted)).sightings
            assert (found.place, found.state, found.source) == ("stream", "waiting", "orders")
            assert (found.id, found.entry_id, found.name) == (message_id, entry_id, "order.placed")
            assert found.in_payload is in_payload
        assert (await find(client, settings, "471")).sightings == ()


async def test_a_failed_message_is_found_with_its_error(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client, working(settings_for(config)):
        await publish(client, Placed(order_id=4711))
        await until(lambda: client.xlen("orders:dlq"))
        found = await find(client, settings, "4711")
    assert found.sightings[0].place == "dead_letter"  # what was settled comes after it
    dead = [one for one in found.sightings if one.place == "dead_letter"]
    assert [(one.error, one.name) for one in dead] == [("ValueError: no stock", "order.placed")]


async def test_a_message_in_work_is_found_with_its_worker(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client:
        (entry_id,) = await publish(client, Placed(order_id=1))
        await client.xgroup_create("orders", "shop", "0")
        assert (await find(client, settings, entry_id)).sightings[0].state == "waiting"
        await client.xreadgroup("shop", "host-1-abc", {"orders": ">"})

        (found,) = (await find(client, settings, entry_id)).sightings
        assert (found.state, found.worker) == ("in work", "host-1-abc")

        await client.xack("orders", "shop", entry_id)
        assert (await find(client, settings, entry_id)).sightings[0].state == "settled"


async def test_a_message_that_is_to_be_retried_is_found_in_the_job_that_puts_it_back(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client:
        job_id = keys.requeue_job_id("orders", "workers", "17-1")
        payload = {"type": "order.placed", "data": '{"order_id":4711}', "_id": "m-1"}
        await client.enqueue_job(
            "requeue_to_stream", "orders", payload, _job_id=job_id, _defer_by=60
        )
        for wanted in ("4711", "17-1", "m-1"):
            (found,) = (await find(client, settings, wanted)).sightings
            assert (found.place, found.state, found.id) == ("retry", "scheduled", job_id)


async def test_a_job_is_found_by_id_and_by_argument(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client:
        await client.enqueue_job("bill", 4711, _job_id="bill-4711", _defer_by=60)
        for wanted, in_payload in (("bill-4711", False), ("4711", True)):
            (found,) = (await find(client, settings, wanted)).sightings
            assert (found.place, found.id, found.state) == ("job", "bill-4711", "scheduled")
            assert found.in_payload is in_payload
        await Jobs(client, settings).cancel("bill-4711")
        (found,) = (await find(client, settings, "bill-4711")).sightings
        assert found.state == "finished"


async def test_parked_messages_are_found(config: Config, settings: ResolvedSettings) -> None:
    async with client_of(config) as client:
        fields = {"type": "order.lost", "data": "{}", "_id": "m-9"}
        await publish_fields(client, keys.parked("orders"), fields)
        (found,) = (await find(client, settings, "m-9")).sightings
        assert (found.place, found.source, found.state) == ("parked", "orders", "parked")


async def test_where_not_all_is_searched_that_is_said(
    config: Config, settings: ResolvedSettings
) -> None:
    async with client_of(config) as client:
        for number in range(120):
            await client.xadd(
                "orders:dlq", {"data": "{}", "_id": f"m-{number}"}, id=f"{number + 1}-0"
            )
        searched: list[int] = []
        found = await find(client, settings, "m-3", 100, searched.append)
        assert (found.sightings, found.incomplete) == ((), ("orders:dlq",))
        assert sum(searched) == 100
        by_entry = await find(client, settings, "4-0", 100)
        assert [one.id for one in by_entry.sightings] == ["m-3"]
        assert (await find(client, settings, "m-3")).sightings[0].entry_id == "4-0"
