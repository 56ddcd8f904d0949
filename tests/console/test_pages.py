"""Each page shows what a real worker left in Redis, and nothing that is secret."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from consolekit import ConfigFor, OrderPlaced, browsing, settings_of, text_of
from waiting import until
from workerbase.broker import keys
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.console import Access
from workerbase.process.runner import serve
from workerbase.process.settings import resolved_settings
from workerbase.streams import publish
from workerbase.testing import Server
from workerbase.types import RedisClient
from workerconfig import Config

SECRET = "hunter2"


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server, max_retries=2, consumer_group="shop")


@pytest.fixture
async def redis(config: Config) -> AsyncIterator[QueueClient]:
    client = connect(config.dsn)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def worked(config: Config, redis: QueueClient) -> None:
    """Let a worker handle, fail and finish, and leave."""
    orders = [OrderPlaced(order_id=number, api_token=SECRET) for number in range(4)]
    await publish(cast("RedisClient", redis), *orders)
    await redis.enqueue_job("bill", 1, api_token=SECRET, _job_id="good")
    await redis.enqueue_job("bill", -1, api_token=SECRET, _job_id="bad")
    await redis.enqueue_job("bill", 7, _job_id="tomorrow", _defer_by=86_400)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(resolved_settings(settings_of(config)), stop))

    async def done() -> bool:
        counts = [await redis.xlen(keys.dlq(name)) for name in ("orders", "arq:queue")]
        return counts == [2, 1] and bool(await redis.exists(keys.result("", "good")))

    await until(done)
    stop.set()
    await running


@pytest.fixture
async def client(config: Config, worked: None) -> AsyncIterator[httpx.AsyncClient]:
    async with browsing(settings_of(config)) as found:
        yield found


async def test_the_overview_counts_and_groups(client: httpx.AsyncClient) -> None:
    shown = text_of((await client.get("/")).text)
    assert "Waiting 0 In work 0 Later 1" in shown
    assert "Dead letters 3" in shown
    assert "ValueError no stock for" in shown
    assert "ValueError no such account" in shown


async def test_the_queues_are_listed(client: httpx.AsyncClient) -> None:
    shown = text_of((await client.get("/queues")).text)
    assert "orders messages" in shown
    assert "arq:queue jobs" in shown
    assert re.search("bill tomorrow deferred (23h 59m|1d 00h)", shown)


async def test_dead_letters_are_filtered_by_the_address(client: httpx.AsyncClient) -> None:
    everything = text_of((await client.get("/dead")).text)
    assert "3 of 3" in everything
    for query, count in (
        ("source=orders", 2), ("error=no+such", 1), ("type=bill", 1), ("reason=permanent", 0),
        ("newer=1h", 3), ("older=1h", 0),
        ("where=order_id%3D1", 1), ("where=order_id!%3D1", 1),
            ("where=order_id+!%3D+1", 1), ("where=order!%3D1", 0), ("since=2020-01-01", 3),
        ("since=2999-01-01T14:00", 0),
    ):  # fmt: skip
        shown = text_of((await client.get(f"/dead?{query}")).text)
        assert f"{count} of " in shown, query
    for wrong_query in ("since=soon", "where=order_id"):
        assert 'role="alert"' in (await client.get(f"/dead?{wrong_query}")).text
    wrong = await client.get("/dead?newer=soon")
    assert "is not a duration; write 30s" in text_of(wrong.text)


async def letter_of(client: httpx.AsyncClient, source: str) -> dict[str, Any]:
    found = (await client.get("/api/dead", params={"source": source})).json()
    return cast("dict[str, Any]", found["letters"][0])


@pytest.mark.parametrize("source", ["orders", "arq:queue"])
async def test_a_letter_shows_its_payload_when_asked_and_never_a_secret(
    client: httpx.AsyncClient, source: str
) -> None:
    letter = await letter_of(client, source)
    where = {"source": source, "id": letter["id"]}
    page = (await client.get("/letter", params=where)).text
    assert "Show payload" in page
    assert "api_token" not in page
    assert "Traceback (most recent call last)" in page
    assert ("Attempt At ValueError no such account 1 " in text_of(page)) is (source != "orders")
    page = (await client.get("/letter", params={**where, "payload": "1"})).text
    assert "api_token&#34;: &#34;[redacted]" in page
    assert SECRET not in page
    gone = await client.get("/letter", params={"source": source, "id": "1-1"})
    assert (gone.status_code, "was replayed or purged" in gone.text) == (404, True)


async def test_jobs_are_listed_by_state_and_shown(client: httpx.AsyncClient) -> None:
    for state, name in (("scheduled", "tomorrow"), ("finished", "good")):
        assert name in (await client.get("/jobs", params={"state": state})).text
    assert "No job runs." in (await client.get("/jobs?state=running")).text
    page = (await client.get("/job?id=good&payload=1")).text
    assert "finished, succeeded" in page
    assert "billed" in page
    assert SECRET not in page
    failed = text_of((await client.get("/job?id=bad")).text)
    assert "finished, failed" in failed
    assert "ValueError no such account" in failed
    assert (await client.get("/job?id=never")).status_code == 404


async def test_a_job_is_changed_and_the_change_is_logged(
    client: httpx.AsyncClient, redis: QueueClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "workerbase.console")
    for action, job_id, said in (
        ("run-now", "tomorrow", "is due now"),
        ("cancel", "tomorrow", "cancelled"),
        ("retry", "bad", "runs again"),
        ("retry", "good", "has succeeded"),
    ):
        form = {"action": action, "id": job_id}
        answer = await client.post("/jobs", data=form, follow_redirects=True)
        assert said in text_of(answer.text), action
        assert f"local (127.0.0.1): {action} of job {job_id}: " in caplog.text
    assert [job for job, _ in await redis.zrange("arq:queue", 0, -1, withscores=True)] == [b"bad"]


async def test_an_order_is_found_by_its_number(client: httpx.AsyncClient) -> None:
    letter = await letter_of(client, "orders")
    answer = await client.get("/find", params={"id": letter["message_id"]})
    places = text_of(answer.text)
    assert "dead letter" in places
    (hop,) = [await client.get("/find?id=tomorrow")]
    assert (hop.status_code, hop.headers["location"]) == (303, "/job?id=tomorrow")
    assert "Nothing that waits" in (await client.get("/find?id=nowhere")).text


async def test_the_catalogue_has_fields_and_docstrings(client: httpx.AsyncClient) -> None:
    shown = text_of((await client.get("/catalogue")).text)
    assert "Somebody wants something. Reserve the stock." in shown
    assert "order_id int required api_token str" in shown
    assert "Send the bill." in shown
    assert "requeue_to_stream" not in shown


async def test_a_text_of_others_is_never_markup(config: Config, redis: QueueClient) -> None:
    evil = '"><script>alert(1)</script>'
    fields = {"type": evil, "data": evil, "_id": evil, "_error_type": evil, "_error": evil,
              "_traceback": evil, "_reason": evil}  # fmt: skip
    entry_id = (await redis.xadd("orders:dlq", cast("Any", fields))).decode()
    await redis.set(keys.job("", evil), b"{}")
    await redis.zadd("arq:queue", {evil: 1})
    async with browsing(settings_of(config)) as client:
        for path in (
            "/", "/dead", f"/letter?source=orders&id={entry_id}&payload=1", "/jobs?state=due",
        ):  # fmt: skip
            page = (await client.get(path)).text
            assert "<script>alert" not in page, path
            assert "&lt;script&gt;alert" in page, path
        page = (await client.get("/find", params={"id": evil}, follow_redirects=True)).text
        assert "<script>alert" not in page


async def test_all_addresses_are_below_the_prefix(config: Config, worked: None) -> None:
    async with browsing(settings_of(config), Access(allow_changes=True), "/ops/worker") as client:
        for path in ("/", "/dead", "/jobs?state=finished", "/job?id=bad", "/find?id=bad"):
            page = (await client.get(path)).text
            for part in page.split('"')[1::2]:
                if part.startswith("/"):
                    assert part.startswith("/ops/worker/"), (path, part)
        assert (await client.get("/static/console.js")).status_code == 200
        assert 'aria-current="page"' in (await client.get("/queues")).text


async def test_an_outage_is_said_and_ends_by_itself(
    own_server: Server, config_for: ConfigFor
) -> None:
    async with browsing(settings_of(config_for(own_server))) as client:
        assert (await client.get("/")).status_code == 200
        own_server.kill()
        answer = await client.get("/dead")
        assert (answer.status_code, "does not answer" in answer.text) == (503, True)
        assert 'http-equiv="refresh"' in answer.text
        assert (await client.get("/api/jobs")).json()["error"].startswith("Redis at ")
        own_server.start()
        assert (await client.get("/dead")).status_code == 200


async def test_a_filter_that_cannot_be_read_is_kept_and_selects_nothing(
    client: httpx.AsyncClient,
) -> None:
    page = (await client.get("/dead?error=no+such&where=customer!%3D42&since=14:00")).text
    assert "is not a time; write" in page
    for kept in ('value="no such"', 'value="customer!=42"', 'value="14:00"'):
        assert kept in page
    assert 'name="action"' not in page, "nothing can be changed by it"
