"""Dead letters are replayed and purged: one, a selection, and all that match, previewed first."""

import asyncio
import json
import re
from html import unescape
from typing import Any, cast

import httpx
import pytest
from consolekit import ConfigFor, browsing, fields_of, settings_of, text_of
from waiting import until
from workerbase.broker.enqueue import QueueClient
from workerbase.testing import Server
from workerconfig import Config


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server, consumer_group="shop")


async def fill(redis: Any, count: int) -> list[str]:
    """Add dead letters, every second with another error."""
    pipe = redis.pipeline(transaction=False)
    for number in range(count):
        fields = {
            "type": "order.placed",
            "data": json.dumps({"order_id": number}),
            "_id": f"m-{number}",
            "_reason": "retries",
            "_error_type": "ValueError" if number % 2 else "KeyError",
            "_error": "no stock",
            "_attempts": "5",
            "_original_stream": "orders",
            "_original_id": f"1-{number}",
        }
        pipe.xadd("orders:dlq", fields)
    return [entry_id.decode() for entry_id in await pipe.execute()]


async def result_of(client: httpx.AsyncClient, answer: httpx.Response) -> httpx.Response:
    assert answer.status_code == 303, answer.text
    where = answer.headers["location"]

    async def ended() -> httpx.Response | None:
        page = await client.get(where)
        return None if "<progress" in page.text else page

    return cast("httpx.Response", await until(ended))


async def test_one_is_replayed(config: Config, redis: QueueClient) -> None:
    first, *_ = await fill(redis, 3)
    async with browsing(settings_of(config)) as client:
        page = (await client.get("/letter", params={"source": "orders", "id": first})).text
        form = fields_of(page, "/operations")
        assert form["id"][0] == first

        ended = await result_of(
            client,
            await client.post(
                "/operations",
                data={"source": "orders", "id": first, "only": "selected", "action": "replay"},
            ),
        )

        assert "Replayed 1" in text_of(ended.text)
        (address,) = re.findall('href="([^"]*)">What has failed since', ended.text)
        assert "0 of 2 dead letters match" in text_of((await client.get(unescape(address))).text)
        await fill(redis, 1)
        assert "1 of 3 dead letters match" in text_of((await client.get(unescape(address))).text)
    assert await redis.xlen("orders:dlq") == 3
    ((_, fields),) = await redis.xrange("orders")
    assert (fields[b"_id"], fields[b"_replays"]) == (b"m-0", b"1")


async def test_a_selection_is_previewed_and_then_purged(
    config: Config, redis: QueueClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "workerbase.console")
    ids = await fill(redis, 5)
    async with browsing(settings_of(config)) as client:
        form = {
            "id": [f"orders/{i}" for i in ids[1:3]],
            "only": "selected",
            "action": "purge",
            "preview": "1",
        }
        preview = await result_of(client, await client.post("/operations", data=form))
        assert "Would be purged 2" in text_of(preview.text)
        assert "Delete 2 for good" in preview.text
        assert await redis.xlen("orders:dlq") == 5
        assert "purge" not in caplog.text

        again = {**fields_of(preview.text, "/operations"), "action": "purge"}
        ended = await result_of(client, await client.post("/operations", data=again))

    assert "Purged 2" in text_of(ended.text)
    left = [entry_id.decode() for entry_id, _ in await redis.xrange("orders:dlq")]
    assert left == [ids[0], *ids[3:]]
    assert "local (127.0.0.1): purge of dead letters" in caplog.text
    assert ids[1] in caplog.text


async def test_all_that_match_are_replayed_and_no_other(config: Config, redis: QueueClient) -> None:
    await fill(redis, 230)
    async with browsing(settings_of(config)) as client:
        form = {"source": "orders", "error": "KeyError", "action": "replay", "preview": "1"}
        preview = await result_of(client, await client.post("/operations", data=form))
        assert "Would be replayed 115" in text_of(preview.text)
        again = {**fields_of(preview.text, "/operations"), "action": "replay"}
        ended = await result_of(client, await client.post("/operations", data=again))
    assert "Replayed 115" in text_of(ended.text)
    assert (await redis.xlen("orders"), await redis.xlen("orders:dlq")) == (115, 115)


async def test_all_that_match_are_meant_whatever_is_selected(
    config: Config, redis: QueueClient
) -> None:
    first, *_ = await fill(redis, 4)
    form = {"error": "KeyError", "id": f"orders/{first}", "only": "all", "action": "purge"}
    async with browsing(settings_of(config)) as client:
        ended = await result_of(client, await client.post("/operations", data=form))
    assert "Purged 2" in text_of(ended.text)


async def test_what_another_group_set_aside_is_not_changed(
    config: Config, redis: QueueClient
) -> None:
    for group in (config.consumer_group, "billing"):
        await redis.xadd("orders:dlq", {"type": "order.placed", "data": "{}", "_group": group})
    async with browsing(settings_of(config)) as client:
        listed = (await client.get("/api/dead")).json()
        assert [letter["group"] for letter in listed["letters"]] == [config.consumer_group]
        ended = await result_of(client, await client.post("/operations", data={"action": "purge"}))
    assert "Purged 1" in text_of(ended.text)
    assert await redis.xlen("orders:dlq") == 1


async def test_what_is_refused_is_counted_and_stays(config: Config, redis: QueueClient) -> None:
    await redis.xadd("orders:dlq", {"type": "order.placed", "data": "{}", "_replays": "3"})
    await redis.xadd("arq:queue:dlq", {"type": "bill", "data": "{}"})
    await redis.xadd("orders:parked", {"type": "order.lost", "data": "{}"})
    async with browsing(settings_of(config)) as client:
        ended = await result_of(client, await client.post("/operations", data={"action": "replay"}))
        shown = text_of(ended.text)
        assert "Replayed 0" in shown
        assert "Left: replayed too often 1" in shown
        assert "Left: not a job that the worker can read 1" in shown
        form = {"action": "replay", "parked": "1"}
        ended = await result_of(client, await client.post("/operations", data=form))
        assert "has no handler for their type 1" in text_of(ended.text)
    assert await redis.xlen("orders:parked") == 1


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"action": "drop"}, "is not replay or purge"),
        ({"action": "purge", "only": "selected"}, "No dead letter is selected."),
        ({"action": "purge", "id": "1-1"}, "does not say of which source it is"),
        ({"action": "purge", "newer": "soon"}, "is not a duration"),
    ],
)
async def test_what_cannot_be_meant_changes_nothing(
    config: Config, redis: QueueClient, form: dict[str, str], reason: str
) -> None:
    await fill(redis, 2)
    async with browsing(settings_of(config)) as client:
        answer = await client.post("/operations", data=form)
        assert (answer.status_code, reason in text_of(answer.text)) == (400, True)
        assert (await client.get("/operations/unknown")).status_code == 404
    assert await redis.xlen("orders:dlq") == 2


async def test_an_outage_ends_a_change_with_its_reason(
    own_server: Server, config_for: ConfigFor
) -> None:
    settings = settings_of(config_for(own_server))
    async with browsing(settings) as client:
        assert (await client.get("/")).status_code == 200
        own_server.kill()
        answer = await client.post("/operations", data={"action": "purge"})
        assert answer.status_code == 303
        own_server.start()
        ended = await result_of(client, answer)
    assert "Redis does not answer" in text_of(ended.text)


async def test_no_more_than_a_few_run_at_a_time(own_server: Server, config_for: ConfigFor) -> None:
    async with browsing(settings_of(config_for(own_server))) as client:
        assert (await client.get("/")).status_code == 200
        own_server.freeze()
        try:
            forms = [client.post("/api/dead", json={"action": "purge"}) for _ in range(5)]
            answers = [await answer for answer in asyncio.as_completed(forms)]
        finally:
            own_server.thaw()
        refused = [answer for answer in answers if answer.status_code == 400]
        assert len(refused) == 1
        assert "4 operations run already" in refused[0].json()["error"]
