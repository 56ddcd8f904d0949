"""The JSON API answers under the same rules, from the same functions as the command line."""

from typing import Any

import pytest
from consolekit import ConfigFor, browsing, settings_of
from test_operations import fill
from workerbase.broker.enqueue import QueueClient
from workerbase.testing import Server
from workerconfig import Config


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server, consumer_group="shop")


async def test_it_shows_what_the_pages_show(config: Config, redis: QueueClient) -> None:
    await fill(redis, 4)
    await redis.enqueue_job("bill", 1, api_token="hunter2", _job_id="later", _defer_by=60)
    async with browsing(settings_of(config)) as client:

        async def get(path: str, **query: str) -> Any:
            answer = await client.get(f"/api/{path}", params=query)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            return answer.json()

        overview = await get("overview")
        assert {s["name"]: s["dead_letters"] for s in overview["status"]["sources"]} == {
            "orders": 4,
            "arq:queue": 0,
        }
        dead = await get("dead", error="KeyError")
        assert (dead["total"], dead["matching"]) == (4, 2)
        assert [(g["source"], g["count"]) for g in dead["groups"]] == [("orders", 2)]
        assert "data" not in dead["letters"][0]
        letter = await get("letter", source="orders", id=dead["letters"][0]["id"], payload="1")
        assert letter["data"] == '{"order_id": 2}'
        listed = await get("jobs", state="scheduled")
        assert [job["id"] for job in listed["jobs"]] == ["later"]
        assert "args" not in listed["jobs"][0]
        job = await get("job", id="later", payload="1")
        assert job["kwargs"] == {"api_token": "[redacted]"}
        assert (await get("find", id="later"))["sightings"][0]["place"] == "job"
        assert await get("schedule") == []
        assert await get("history") == []


async def test_it_changes_jobs_and_dead_letters(config: Config, redis: QueueClient) -> None:
    ids = await fill(redis, 4)
    await redis.enqueue_job("bill", 1, _job_id="later", _defer_by=60)
    async with browsing(settings_of(config)) as client:
        answer = await client.post("/api/job", json={"id": "later", "action": "cancel"})
        assert answer.json() == {"id": "later", "result": "cancelled"}
        wanted = {"action": "purge", "source": "orders", "preview": True, "id": ids[:1]}
        preview = (await client.post("/api/dead", json=wanted)).json()
        assert (preview["results"], preview["ended"]) == ({"purged": 1}, True)
        assert await redis.xlen("orders:dlq") == 4
        done = (await client.post("/api/dead", json=wanted | {"preview": False})).json()
        again = (await client.get(f"/api/operations/{done['id']}")).json()
        assert again["results"] == {"purged": 1}
    assert await redis.xlen("orders:dlq") == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("job", "{", 400, "not JSON"), ("job", "[]", 400, "not a JSON object"),
        ("job", '{"action": "drop"}', 400, "not one of cancel, run-now, retry"),
        ("dead", '{"action": "drop"}', 400, "not one of replay, purge"),
        ("dead", '{"action": "purge", "id": "1-1"}', 400, "not a list"),
        ("dead", '{"action": "purge", "older": "soon"}', 400, "not a duration"),
        ("jobs?state=lost", "", 400, "not one of due"), ("find", "", 400, "id is missing"),
        ("job?id=never", "", 404, "no job"), ("letter?source=orders&id=1-1", "", 404, "no dead"),
        ("operations/none", "", 404, "does not know"),
    ],
)  # fmt: skip
async def test_what_it_cannot_do_it_says(
    config: Config, path: str, body: str, status: int, reason: str
) -> None:
    async with browsing(settings_of(config)) as client:
        method = "POST" if body else "GET"
        answer = await client.request(method, f"/api/{path}", content=body)
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
