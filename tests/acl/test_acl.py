"""deploy/redis/users.conf: worker and publisher can do all of their work, and nothing else."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations, product
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import redis as sync
from aclkit import JOBS_OF_LEASES, PASSWORDS, PROJECTS, GuardedServer, deployed, rendered
from arq import cron
from arq.jobs import JobStatus
from arq.worker import Retry, Worker, func
from pydantic import SecretStr
from redis.exceptions import AuthenticationError, ResponseError
from servers import KINDS, binary
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx, Service, task
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.delivery import ArqAdapter
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.inspector.status import snapshot
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings
from workerbase.process.settings import redis_settings, resolved_settings
from workerbase.streams import Event, EventContext, EventPublisher, EventRouter, Streams
from workerbase.testing import Server
from workerbase.types import RedisClient
from workerconfig import Config


@dataclass(frozen=True)
class Guarded:
    """A server with the users of a project."""

    server: GuardedServer
    features: tuple[str, ...]


@pytest.fixture(
    scope="module",
    params=list(product(KINDS, PROJECTS)),
    ids=[f"{kind}-{project}" for kind, project in product(KINDS, PROJECTS)],
)
def guarded_project(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Guarded]:
    kind, project = request.param
    features = PROJECTS[project]
    users = deployed(tmp_path_factory.mktemp("users"), rendered(features))
    with GuardedServer(users, binary=binary(kind)) as server:
        yield Guarded(server, features)


@pytest.fixture
def guarded(guarded_project: Guarded) -> GuardedServer:
    return guarded_project.server


def dsn(server: Server, user: str) -> str:
    return f"redis://{user}:{quote(PASSWORDS[user], safe='')}@127.0.0.1:{server.port}/1"


# --- the file


ALL = ("streams", "devtools", "console", "leased_jobs", "telemetry", "kubernetes")
SETS = [features for n in range(len(ALL) + 1) for features in combinations(ALL, n)]


@pytest.mark.parametrize("features", SETS, ids=["+".join(features) or "none" for features in SETS])
def test_the_file_has_no_password_and_nobody_can_log_in_until_it_has(
    features: tuple[str, ...],
) -> None:
    text = rendered(features)
    users = [line.split()[1:] for line in text.splitlines() if line.startswith("user ")]

    assert [name for name, *_ in users] == ["default", "admin", "worker", "publisher"]
    assert users[0] == ["default", "off"]
    for _, *rules in users:
        assert not [rule for rule in rules if rule[0] in "#>" or rule == "nopass"]
        assert len({*rules}) == len(rules)
    for _, *rules in users[2:]:
        assert rules[:2] == ["on", "resetchannels"]
        granted = [rule for rule in rules if rule[0] in "+-"]
        assert granted[0] == "-@all"
        # Command by command: a category grows with the server's version.
        assert all(re.fullmatch(r"\+[a-z]+(\|[a-z]+)?", rule) for rule in granted[1:])
    has_streams = "streams" in features
    assert ("+xreadgroup" in text) is ("~orders" in text) is has_streams
    assert ("&" in text, "None" in text) == (True, False)


def test_the_users_of_each_feature_differ_in_what_only_it_needs() -> None:
    def rules(*features: str) -> set[str]:
        (line,) = re.findall(r"^user worker (.*)$", rendered(features), re.MULTILINE)
        return {*line.split()}

    plain = rules()
    assert rules("devtools") == rules("telemetry") == plain
    assert rules("kubernetes") - plain == {"+type", "+llen"}
    leased = rules("leased_jobs")
    history = {"~arq:queue:history:*", "~arq:queue:pauses", "~arq:queue:workers"}
    history |= {"+hset", "+hincrby", "+hdel"}
    assert rules("console") - plain == {*history, "+pttl"}
    assert rules("leased_jobs", "console") - leased == {*history, "+expire"}
    assert {"~orders", "~orders:dlq", "+xreadgroup", "+hmget"} <= rules("streams") - plain
    assert {"+decr", "+sadd", "+srem"} <= leased - plain
    assert plain - leased == {
        *("+dbsize", "+expire", "+incrby", "+setex", "+unwatch", "+watch", "+zincrby")
    }


# --- all of their work

KEDA = """
local kind = redis.call('TYPE', KEYS[1]).ok
return redis.call(kind == 'zset' and 'ZCARD' or 'LLEN', KEYS[1])
"""
"""What KEDA's trigger for a key of any type comes to: an absent one has type none."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jobs", PROJECTS)
def test_an_autoscaler_may_ask_as_the_worker_with_and_without_a_queue(
    tmp_path: Path, kind: str, jobs: str
) -> None:
    users = deployed(tmp_path, rendered((*PROJECTS[jobs], "kubernetes")))
    with (
        GuardedServer(users, binary=binary(kind)) as server,
        server.login("worker") as worker,
    ):
        assert worker.eval(KEDA, 1, "arq:queue") == 0
        worker.zadd("arq:queue", {"job": 1})
        assert worker.eval(KEDA, 1, "arq:queue") == 1


class OrderPaid(Event, type="order.paid", stream="orders"):
    order_id: int


class OrderLost(Event, type="order.lost", stream="orders"):
    pass


def services_of(features: Collection[str], router: EventRouter) -> tuple[Service, ...]:
    streams = (Streams(router),) if "streams" in features else ()
    return (*streams, LeasedJobs()) if "leased_jobs" in features else streams


@contextlib.asynccontextmanager
async def serving(config: Config, features: Collection[str]) -> AsyncIterator[list[str]]:
    """Run a whole worker process's work here; yields what it did."""
    ran: list[str] = []
    orders = EventRouter()

    @orders.on(OrderPaid)
    async def on_order_paid(event: OrderPaid, ctx: EventContext) -> None:
        ran.append(f"order {event.order_id}")
        if event.order_id == 0:
            raise ValueError("no such order")

    @task()
    async def work(ctx: Ctx, number: int) -> int:
        ran.append(f"job {number}")
        if number == 0:
            raise ValueError("nothing to do")
        await asyncio.sleep(number / 1000)
        return number

    async def tick(ctx: Ctx) -> None:
        ran.append("tick")

    own = config

    class Settings(BaseArqWorkerSettings):
        config = own
        services = services_of(features, orders)
        functions = (replace(work.as_function(), name="work"),)
        cron_jobs = (cron(cast("Any", tick), name="tick", run_at_startup=True),)
        allow_abort_jobs = True

    stop = asyncio.Event()
    running = asyncio.create_task(serve(resolved_settings(Settings), stop))
    try:
        yield ran
    finally:
        stop.set()
        await running


async def test_both_can_do_all_of_their_work(
    guarded_project: Guarded, config_for: Callable[..., Config]
) -> None:
    guarded, features = guarded_project.server, guarded_project.features
    guarded.flush()
    admin = guarded.login("admin")
    admin.execute_command("ACL", "LOG", "RESET")
    as_worker = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "worker")), max_retries=2)
    as_publisher = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "publisher")))
    client = connect(as_worker.dsn)
    redis = cast("RedisClient", client)
    async with (
        ArqAdapter(as_publisher) as jobs,
        EventPublisher(as_publisher) as events,
        serving(as_worker, features) as ran,
    ):
        if "streams" in features:
            events.publish_sync(OrderPaid(order_id=0))
            await events.publish(OrderPaid(order_id=1), OrderLost())
        assert jobs.enqueue_sync("work", 0)
        done, long = await jobs.enqueue("work", 1), await jobs.enqueue("work", 60_000)
        assert done
        assert long
        assert await done.result(timeout=20) == 1
        await until(lambda: "job 60000" in ran)
        assert await long.status() == JobStatus.in_progress
        assert await long.abort(timeout=20)
        await until(lambda: "tick" in ran)

        sources = ["arq:queue"]
        if "streams" in features:
            await until(lambda: "order 1" in ran)
            sources.append("orders")
            parked = DeadLetterQueue.parked(redis, "orders")
            (entry,) = [entry async for entry in parked.scan()]
            assert entry.event_type == "order.lost"
        for source in sources:
            dead = DeadLetterQueue.of_source(redis, source)
            await until(dead.size)
            found = await snapshot(redis, settings_of(as_worker, features))
            assert [one.dead_letters for one in found.sources if one.name == source] == [1]
            (entry,) = [entry async for entry in dead.scan()]
            assert await dead.replay(entry, 3) == "replayed"
            await until(dead.size)
            (entry,) = [entry async for entry in dead.scan(until=await dead.newest())]
            assert await dead.purge(entry)
    await client.aclose(close_connection_pool=True)
    assert ran.count("job 0") == 4
    assert ran.count("order 0") == (4 if "streams" in features else 0)

    # Redis itself says what it refused, inside scripts, too.
    refused = {(row["username"], row["object"]) for row in admin.acl_log()}
    admin.close()
    assert {what for _, what in refused} <= {"client|setinfo", "client"}, refused


def settings_of(config: Config, features: Collection[str]) -> ResolvedSettings:
    """Return settings of a worker that handles the events of these tests."""
    router = EventRouter()

    @router.on(OrderPaid)
    async def on_order_paid(event: OrderPaid, ctx: EventContext) -> None: ...

    members = {"config": config, "services": services_of(features, router)}
    return resolved_settings(type("Settings", (BaseArqWorkerSettings,), members))


async def test_plain_arq_needs_what_the_file_names(
    tmp_path: Path, config_for: Callable[..., Config]
) -> None:
    text = rendered(JOBS_OF_LEASES)
    (more,) = re.findall(r"^# Plain arq needs, too: (.*)\.$", text, re.MULTILINE)
    attempts: list[int] = []
    now = datetime.now(UTC)

    async def job(ctx: Ctx) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise Retry(defer=0.01)
        if len(attempts) == 2:
            raise ValueError

    async def tick(ctx: Ctx) -> None:
        attempts.append(1)

    text = re.sub(r"(?m)^user worker .*$", rf"\g<0> {more}", text)
    with GuardedServer(deployed(tmp_path, text)) as server:
        config = config_for(server, redis_dsn=SecretStr(dsn(server, "worker")))
        with contextlib.closing(ArqAdapter(config)) as jobs:
            for _ in range(2):
                jobs.enqueue_sync("job")
        worker = Worker(
            [func(cast("Any", job), name="job")],
            cron_jobs=[
                # Only at startup: not in this hour.
                cron(cast("Any", tick), name="tick", hour=(now.hour + 6) % 24, run_at_startup=True)
            ],
            redis_settings=redis_settings(config.dsn),
            job_serializer=codec.dumps,
            job_deserializer=codec.loads,
            allow_abort_jobs=True,
            burst=True,
            poll_delay=0,
            handle_signals=False,
        )
        await worker.main()
        await worker.pool.aclose(close_connection_pool=True)
    assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (2, 1, 1)


# --- and nothing else

EVERYBODY = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "DBSIZE", "CONFIG GET *", "CONFIG SET maxmemory 1",
    "ACL LIST", "ACL SETUSER worker +@all", "CLIENT LIST", "CLIENT KILL TYPE normal",
    "SHUTDOWN NOSAVE", "SAVE", "REPLICAOF NO ONE", "SCRIPT FLUSH", "MONITOR", "MODULE LIST",
    "RENAME orders mine", "DUMP orders", "COPY orders mine", "EXPIRE other 1", "EXPIRE orders 1",
    "SORT orders", "MIGRATE h 1 orders 0 1", "XGROUP SETID orders workers 0",
    "GET session:1", "SET session:1 x", "XADD other * a b", "ZADD arq:other 1 a",
    "SUBSCRIBE other", "PSUBSCRIBE *", "PUBLISH other x",
)  # fmt: skip
PUBLISHER = (
    "INFO", "XRANGE orders - +", "XREAD STREAMS orders 0", "XLEN orders", "XDEL orders 1-1",
    "SCAN 0", "XTRIM orders MAXLEN 0", "XREADGROUP GROUP workers me STREAMS orders >",
    "XACK orders workers 1-1", "XADD orders:dlq * a b", "XADD arq:queue:dlq * a b", "DEL orders",
    "DEL arq:job:1", "SET arq:queue:cron:tick 1", "SET orders:dlq x", "GET arq:queue:health-check",
    "SUBSCRIBE arq:queue:wake", "MGET arq:job:1", "SCAN 0", "XGROUP DESTROY orders workers",
)  # fmt: skip


OF_ARQ = ("DBSIZE", "EXPIRE orders 1")
"""Lines with a command that arq's own worker sends."""


def refused(server: GuardedServer, user: str, *words: str) -> str:
    with server.login(user) as client, pytest.raises(ResponseError) as caught:
        client.execute_command(*words)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("user", "lines"), [("worker", EVERYBODY), ("publisher", EVERYBODY + PUBLISHER)]
)
def test_what_is_none_of_their_work_is_refused(
    guarded_project: Guarded, user: str, lines: tuple[str, ...]
) -> None:
    of_arq = () if user != "worker" or "leased_jobs" in guarded_project.features else OF_ARQ
    for line in lines:
        if line not in of_arq:
            said = refused(guarded_project.server, user, *line.split())
            assert "NoPermissionError" in said, line


@pytest.mark.parametrize("user", ["worker", "publisher"])
@pytest.mark.parametrize(
    "call",
    ["'FLUSHALL'", "'KEYS', '*'", "'GET', 'session:1'", "'PUBLISH', 'other', 'x'"],
)
def test_a_script_may_do_no_more_than_its_user(
    guarded: GuardedServer, user: str, call: str
) -> None:
    said = refused(guarded, user, "EVAL", f"return redis.call({call})", "0")

    # Redis 6.2, 7 and Valkey word it each in its own way.
    assert re.search(r"The user executing the script can't|ACL failure in script", said), said


async def test_a_publisher_can_do_the_harm_that_the_security_note_tells_of(
    guarded_project: Guarded, config_for: Callable[..., Config]
) -> None:
    guarded, features = guarded_project.server, guarded_project.features
    guarded.flush()
    as_publisher = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "publisher")))
    as_worker = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "worker")))
    async with ArqAdapter(as_publisher) as jobs, EventPublisher(as_publisher) as events:
        jobs.enqueue_sync("work", "other's data")
        client = jobs.for_threads
        (job_id,) = client.zrange("arq:queue", 0, -1)
        assert b"other's data" in client.get(b"arq:job:" + job_id)
        client.zrem("arq:queue", job_id)
        if "streams" not in features:
            return
        await events.publish(*[OrderPaid(order_id=n) for n in range(3)])
        client.execute_command("XADD", "orders", "MAXLEN", "0", "*", "a", "b")
        forged = {"type": "order.paid", "data": "{}", "_retries": "9"}
        await jobs.enqueue("requeue_to_stream", "orders", forged)
        with guarded.login("admin") as admin:
            admin.select(1)
            async with serving(as_worker, features) as ran:
                await until(lambda: "gave up after 10 " in str(admin.xrange("orders:dlq")))
            assert admin.xlen("orders") == 0
    assert not [what for what in ran if what.startswith(("order", "job"))]


def test_nobody_gets_in_without_a_password(guarded: GuardedServer) -> None:
    with sync.Redis(port=guarded.port) as client, pytest.raises(AuthenticationError):
        client.execute_command("PING")
    for user in PASSWORDS:
        with (
            sync.Redis(port=guarded.port, username=user, password="guess") as client,
            pytest.raises(AuthenticationError),
        ):
            client.execute_command("PING")
