"""Operators pause and resume; workers learn of it from Redis within a second."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from consolekit import ConfigFor, OrderPlaced, browsing, fields_of, settings_of, text_of
from processkit import Project
from processkit import until as until_true
from redis.exceptions import ResponseError
from waiting import until
from workerbase import Ctx, task
from workerbase.broker import keys
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.console import Access, History
from workerbase.console.pauses import NotKnownError, begin, end, names_of, read_pauses, refresh
from workerbase.engine.pauses import PAUSE_KINDS, PauseKind
from workerbase.inspector.status import snapshot
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.streams import EventContext, EventRouter, Streams, publish
from workerbase.testing import Server
from workerbase.types import RedisClient
from workerconfig import Config

QUEUE = "arq:queue"
NAMES: dict[PauseKind, str] = {
    "queue": QUEUE,
    "stream": "orders",
    "event": "order.placed",
    "task": "bill",
}


@pytest.fixture
def config(each_server: Server, config_for: ConfigFor) -> Config:
    return config_for(each_server, consumer_group="shop", drain_timeout=1, max_retries=1)


@pytest.fixture
async def redis(config: Config) -> AsyncIterator[QueueClient]:
    client = connect(config.dsn)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def settings(config: Config) -> ResolvedSettings:
    return resolved_settings(settings_of(config))


def plain(redis: QueueClient) -> RedisClient:
    return cast("RedisClient", redis)


# --- in Redis


async def test_a_pause_says_who_when_why_and_until_when(
    redis: QueueClient, settings: ResolvedSettings
) -> None:
    before = time.time()
    who = "anna@host"
    await begin(plain(redis), settings, "stream", "orders", who=who, why="deploy\x1b", seconds=600)
    await asyncio.sleep(0.01)
    await begin(plain(redis), settings, "queue", QUEUE, who=who)
    first, second = await read_pauses(redis, QUEUE)
    assert (first.kind, first.name, first.who, first.why) == (
        "stream",
        "orders",
        who,
        "deploy\\x1b",
    )
    assert before - 1 < first.since < time.time() + 1
    assert first.until == pytest.approx(first.since + 600)
    assert (second.kind, second.name, second.why, second.until) == ("queue", QUEUE, "", None)
    assert (await snapshot(plain(redis), settings)).pauses == (first, second)
    assert await end(plain(redis), QUEUE, "stream", "orders")
    assert not await end(plain(redis), QUEUE, "stream", "orders")
    assert await read_pauses(redis, QUEUE) == (second,)


async def test_a_pause_that_is_over_counts_as_ended_and_is_removed_with_the_next_change(
    redis: QueueClient, settings: ResolvedSettings
) -> None:
    await begin(plain(redis), settings, "task", "bill", who="a", seconds=0.2)
    await begin(plain(redis), settings, "event", "order.placed", who="a", seconds=60)
    assert len(await read_pauses(redis, QUEUE)) == 2
    await until(lambda: _count(redis, 1))
    assert await redis.hlen(keys.pauses(QUEUE)) == 2
    await begin(plain(redis), settings, "event", "order.placed", who="b")
    assert await redis.hlen(keys.pauses(QUEUE)) == 1
    assert not await end(plain(redis), QUEUE, "task", "bill"), "it had ended"
    (pause,) = await read_pauses(redis, QUEUE)
    assert (pause.who, pause.until) == ("b", None)


async def _count(redis: QueueClient, number: int) -> bool:
    return len(await read_pauses(redis, QUEUE)) == number


@pytest.mark.parametrize("kind", PAUSE_KINDS)
async def test_what_the_worker_does_not_know_is_not_paused(
    redis: QueueClient, settings: ResolvedSettings, kind: PauseKind
) -> None:
    wrong = NAMES[kind][:-1]
    assert NAMES[kind] in names_of(settings)[kind]
    with pytest.raises(NotKnownError, match=f"no {kind} '{wrong}' is known; did you mean"):
        await begin(plain(redis), settings, kind, wrong, who="a")
    assert await read_pauses(redis, QUEUE) == ()


async def test_where_redis_refuses_to_say_what_is_paused_nothing_is(
    redis: QueueClient, settings: ResolvedSettings, caplog: pytest.LogCaptureFixture
) -> None:
    worker = WorkerContext(settings=settings, redis=redis)
    worker.paused.forget()
    await redis.set(keys.pauses(QUEUE), "of another kind")
    with pytest.raises(ResponseError):
        await read_pauses(redis, QUEUE)
    for _ in range(3):
        await refresh(redis, worker)
    assert not worker.paused.any
    assert caplog.text.count("nothing can be paused") == 1


# --- a worker


class Shop:
    """A worker that notes what it handles, with either engine of jobs."""

    def __init__(self, config: Config, engine: str) -> None:
        self.done: list[str] = []
        router = EventRouter()

        @router.on(OrderPlaced)
        async def on_order(event: OrderPlaced, ctx: EventContext) -> None:
            self.done.append(f"order {event.order_id} {ctx.attempt}")

        async def bill(ctx: Ctx, number: int) -> None:
            self.done.append(f"bill {number} {ctx['job_try']}")

        bill.__qualname__ = "bill"
        jobs = [LeasedJobs()] if engine == "leased" else []
        services = (Streams(router), *jobs, History())
        self.settings = resolved_settings(
            settings_of(config, functions=[task(max_retries=1)(bill)], services=services)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(serve(self.settings, stop))
        try:
            yield
        finally:
            stop.set()
            await running


async def give(redis: QueueClient, first: int, count: int = 10) -> None:
    await publish(plain(redis), *(OrderPlaced(order_id=n) for n in range(first, first + count)))
    for number in range(first, first + count):
        await redis.enqueue_job("bill", number)


def kinds_of(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines}


@pytest.mark.parametrize("kind", PAUSE_KINDS)
@pytest.mark.parametrize("engine", ["leased", "arq"])
async def test_a_worker_heeds_a_pause_within_a_second_and_all_runs_after_it(
    config: Config, redis: QueueClient, engine: str, kind: PauseKind
) -> None:
    shop = Shop(config, engine)
    held, free = ("order", "bill") if kind in ("stream", "event") else ("bill", "order")
    async with shop.running():
        await give(redis, 0)
        await until(lambda: len(shop.done) == 20)
        await begin(plain(redis), shop.settings, kind, NAMES[kind], who="anna")
        await asyncio.sleep(1)
        await give(redis, 100)
        await until(lambda: len(shop.done) == 30)
        await asyncio.sleep(0.5)
        assert kinds_of(shop.done[20:]) == {free}
        assert await end(plain(redis), QUEUE, kind, NAMES[kind])
        await until(lambda: len(shop.done) == 40, 5)
    assert kinds_of(shop.done[30:]) == {held}
    assert {line.split()[2] for line in shop.done} == {"1"}, "no attempt was counted"


@pytest.mark.parametrize("engine", ["leased", "arq"])
async def test_a_worker_that_starts_while_all_is_paused_starts_nothing_until_the_end(
    config: Config, redis: QueueClient, engine: str
) -> None:
    shop = Shop(config, engine)
    await give(redis, 0)
    for kind, name in NAMES.items():
        await begin(plain(redis), shop.settings, kind, name, who="anna", seconds=3)
    began = time.monotonic()
    async with shop.running():
        await until(lambda: shop.done)
        assert time.monotonic() - began > 2.5
        await until(lambda: len(shop.done) == 20, 6)


@pytest.mark.parametrize("engine", ["leased", "arq"])
async def test_a_paused_task_waits_under_all_its_names(
    config: Config, redis: QueueClient, engine: str
) -> None:
    done: list[str] = []

    @task(aliases=["former"], max_retries=1)
    async def tidy(ctx: Ctx) -> None:
        done.append(str(ctx["job_id"]))

    every_second: Any = tidy.cron(second=set(range(60)))
    jobs = [LeasedJobs()] if engine == "leased" else []
    more = {"functions": [tidy], "cron_jobs": [every_second], "services": (*jobs, History())}
    settings = resolved_settings(settings_of(config, **more))
    await begin(plain(redis), settings, "task", tidy.name, who="anna")
    await redis.enqueue_job("former", _job_id="renamed")
    stop = asyncio.Event()
    running = asyncio.create_task(serve(settings, stop))
    await asyncio.sleep(3.2)
    waiting = await redis.zcard(QUEUE)
    assert (done, waiting > 2) == ([], True)
    assert await end(plain(redis), QUEUE, "task", tidy.name)
    await until(lambda: len(done) >= waiting, 5)
    await until(lambda: "renamed" in done, 5)
    stop.set()
    await running


async def test_an_outage_of_redis_ends_no_pause(own_server: Server, config_for: ConfigFor) -> None:
    config = config_for(own_server, consumer_group="shop", drain_timeout=1)
    shop, redis = Shop(config, "leased"), connect(config.dsn)
    for kind in ("queue", "stream"):
        await begin(plain(redis), shop.settings, kind, NAMES[kind], who="anna")
    await give(redis, 0)
    async with shop.running():
        await asyncio.sleep(1)
        own_server.kill()
        await asyncio.sleep(1.5)
        own_server.start()
        await asyncio.sleep(2)
        assert shop.done == []
        for kind in ("queue", "stream"):
            assert await end(plain(redis), QUEUE, kind, NAMES[kind])
        await until(lambda: len(shop.done) == 20)
    await redis.aclose(close_connection_pool=True)


async def test_a_worker_that_starts_during_an_outage_reads_first_what_is_paused(
    own_server: Server, config_for: ConfigFor
) -> None:
    config = config_for(own_server, consumer_group="shop", drain_timeout=1)
    shop, redis = Shop(config, "leased"), connect(config.dsn)
    for kind in ("queue", "stream"):
        await begin(plain(redis), shop.settings, kind, NAMES[kind], who="anna", seconds=60)
    await give(redis, 0)
    own_server.kill()
    async with shop.running():
        await asyncio.sleep(1)
        own_server.start()
        await asyncio.sleep(2)
        assert shop.done == []
    await redis.aclose(close_connection_pool=True)


# --- commands, with workers of their own


@pytest.mark.parametrize("engine", ["leased", "arq"])
def test_commands_pause_and_resume_workers(project: Project, engine: str) -> None:
    project.variables |= {"TINY_HISTORY": "1", "TINY_JOBS": engine}
    project.start_ready()
    paused = project.run("pause", "--stream", "orders", "--for", "10m", "--reason", "deploy")
    assert paused.returncode == 0, paused.stderr
    assert paused.stdout.startswith("paused stream orders for 0.0s, for 10m more, by ")
    assert paused.stdout.rstrip().endswith(": deploy")
    made = json.loads(project.run("pause", "--queue", "--json").stdout)
    assert (made["kind"], made["name"], made["until"]) == ("queue", QUEUE, None)
    assert "@" in made["who"]
    time.sleep(1)
    assert project.run("publish", "order", "--json", '{"number": 1}').returncode == 0
    assert project.run("enqueue", "add", "3").returncode == 0
    status = project.run("status")
    assert "paused: stream orders for" in status.stdout
    assert len(json.loads(project.run("status", "--json").stdout)["pauses"]) == 2
    assert len(json.loads(project.run("pause", "ls", "--json").stdout)) == 2
    assert "queue arq:queue" in project.run("pause").stdout
    assert project.problem(ready=True) == "", "a paused worker is ready"
    assert project.redis.hgetall("begun") == {}
    resumed = project.run("resume", "--all")
    assert resumed.stdout.splitlines() == ["resumed stream orders", "resumed queue arq:queue"]
    until_true(lambda: project.redis.hget("done", "1"), "the message is handled")
    until_true(lambda: project.redis.hget("sums", "3"), "the job has run")
    assert project.run("resume", "--all").stdout == "nothing is paused\n"
    assert project.run("pause", "ls").stdout == "nothing is paused\n"
    project.running[0].send(signal.SIGTERM)
    assert project.running[0].ended() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pause", "--stream", "order"), "no stream 'order' is known; did you mean orders?"),
        (("pause", "--event", "orders"), "no event 'orders' is known; did you mean order?"),
        (("pause", "--task", "ad"), "no task 'ad' is known; did you mean add?"),
        (("pause", "--task", "add", "--queue"), "give one of --queue, --stream"),
        (("pause", "--task", "add", "--for", "soon"), "not a duration"),
        (("resume",), "name what goes on, or give --all"),
        (("resume", "--all", "--queue"), "name what goes on, or give --all"),
        (("resume", "--task", "add"), "no task 'add' is paused; there are none"),
    ],
)
def test_a_command_that_cannot_be_meant_is_an_error(
    in_process: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("TINY_HISTORY", "1")
    result = in_process(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_a_worker_without_history_cannot_be_paused(in_process: Any) -> None:
    result = in_process("pause", "--queue")
    assert (result.exit_code, "add History() to `services`" in result.output) == (1, True)


# --- the console


async def test_the_console_shows_and_ends_a_pause(config: Config, redis: QueueClient) -> None:
    async with browsing(settings_of(config)) as client:
        assert "Nothing is paused." in text_of((await client.get("/pauses")).text)
        form = {"what": "event:order.placed", "for": "10m", "reason": "<b>deploy"}
        answer = await client.post("/pauses", data={**form, "action": "pause"})
        assert answer.status_code == 303
        page = (await client.get("/pauses")).text
        assert "event order.placed" in text_of(page)
        assert "&lt;b&gt;deploy" in page
        assert fields_of(page)["what"] == ["event:order.placed"]
    async with browsing(settings_of(config)) as client:
        overview = (await client.get("/api/overview")).json()
        (pause,) = overview["status"]["pauses"]
        assert (pause["kind"], pause["name"], pause["who"]) == ("event", "order.placed", "local")
        assert "Event order.placed is paused for" in text_of((await client.get("/")).text)
        answer = await client.post("/pauses", data={"what": form["what"], "action": "resume"})
        assert answer.status_code == 303
    assert await read_pauses(redis, QUEUE) == ()


async def test_the_console_logs_and_refuses_as_with_other_changes(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pause = {"action": "pause", "kind": "queue", "name": QUEUE}
    async with browsing(settings_of(config), Access()) as client:
        assert (await client.post("/api/pauses", json=pause)).status_code == 403
        assert "<form method" not in (await client.get("/pauses")).text
    async with browsing(settings_of(config)) as client:
        assert (await client.post("/api/pauses", json=pause)).json() == {"result": "paused"}
        resume = pause | {"action": "resume"}
        assert (await client.post("/api/pauses", json=resume)).json() == {"result": "resumed"}
        assert (await client.post("/api/pauses", json=resume)).json() == {"result": "not paused"}
        for wrong, said in (
            ({"action": "stop"}, "action is 'stop', not one of pause, resume"),
            ({"kind": "all"}, "kind is 'all', not one of queue, stream, event, task"),
            ({"name": "arq:queues"}, "did you mean arq:queue?"),
            ({"for": "soon"}, "not a duration"),
        ):
            answer = await client.post("/api/pauses", json=pause | wrong)
            assert (answer.status_code, said in answer.json()["error"]) == (400, True)
        answer = await client.post("/pauses", data={"what": "task:bil", "action": "pause"})
        assert (answer.status_code, "did you mean bill?" in text_of(answer.text)) == (400, True)
        form = {"what": "task:bill", "action": "pause", "for": "soon", "reason": "mail is down"}
        answer = await client.post("/pauses", data=form)
        assert (answer.status_code, "not a duration" in text_of(answer.text)) == (400, True)
        for kept in ('value="task:bill" selected', 'value="soon"', 'value="mail is down"'):
            assert kept in answer.text
    assert f"pause of queue {QUEUE}: paused" in caplog.text
    assert f"resume of queue {QUEUE}: resumed" in caplog.text
