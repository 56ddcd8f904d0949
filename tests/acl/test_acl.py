"""deploy/redis/users.conf: worker and publisher can do all of their work, and nothing else."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import redis as sync
from aclkit import PASSWORDS, GuardedServer, deployed, rendered
from arq import cron
from arq.jobs import JobStatus
from arq.worker import Retry, Worker, func
from pydantic import SecretStr
from redis.exceptions import AuthenticationError, ResponseError
from servers import KINDS, binary
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx, Event, EventContext, EventRouter, wire
from workerbase.config import WorkerConfig
from workerbase.connect import connect
from workerbase.delivery.arq import ArqAdapter
from workerbase.delivery.streams import EventPublisher
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.runner import serve
from workerbase.status import snapshot
from workerbase.types import RedisClient

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=KINDS)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[GuardedServer]:
    users = deployed(tmp_path_factory.mktemp("users"), rendered())
    with GuardedServer(users, binary=binary(request.param)) as server:
        yield server


def dsn(server: Server, user: str) -> str:
    return f"redis://{user}:{quote(PASSWORDS[user], safe='')}@127.0.0.1:{server.port}/1"


# --- the file


def test_the_file_has_no_password_and_nobody_can_log_in_until_it_has() -> None:
    users = [line.split()[1:] for line in rendered().splitlines() if line.startswith("user ")]

    assert [name for name, *_ in users] == ["default", "admin", "worker", "publisher"]
    assert users[0] == ["default", "off"]
    for _, *rules in users:
        assert not [rule for rule in rules if rule[0] in "#>" or rule == "nopass"]
    for _, *rules in users[2:]:
        assert rules[:2] == ["on", "resetchannels"]
        granted = [rule for rule in rules if rule[0] in "+-"]
        assert granted[0] == "-@all"
        # Command by command: a category grows with the server's version.
        assert all(re.fullmatch(r"\+[a-z]+(\|[a-z]+)?", rule) for rule in granted[1:])


# --- all of their work

KEDA = """
local kind = redis.call('TYPE', KEYS[1]).ok
return redis.call(kind == 'zset' and 'ZCARD' or 'LLEN', KEYS[1])
"""
"""What KEDA's trigger for a key of any type comes to: an absent one has type none."""


def test_an_autoscaler_may_ask_as_the_worker_with_and_without_a_queue(
    guarded: GuardedServer,
) -> None:
    with guarded.login("worker") as worker, guarded.login("admin") as admin:
        admin.flushall()
        assert worker.eval(KEDA, 1, "arq:queue") == 0
        worker.zadd("arq:queue", {"job": 1})
        assert worker.eval(KEDA, 1, "arq:queue") == 1
        admin.flushall()


class OrderPaid(Event, type="order.paid", stream="orders"):
    order_id: int


class OrderLost(Event, type="order.lost", stream="orders"):
    pass


@contextlib.asynccontextmanager
async def serving(config: WorkerConfig) -> AsyncIterator[list[str]]:
    """Run a whole worker process's work here; yields what it did."""
    ran: list[str] = []
    orders = EventRouter()

    @orders.on(OrderPaid)
    async def on_order_paid(event: OrderPaid, ctx: EventContext) -> None:
        ran.append(f"order {event.order_id}")
        if event.order_id == 0:
            raise ValueError("no such order")

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
        router = orders
        functions = (func(cast("Any", work), name="work"),)
        cron_jobs = (cron(cast("Any", tick), name="tick", run_at_startup=True),)
        allow_abort_jobs = True

    stop = asyncio.Event()
    running = asyncio.create_task(serve(Settings, stop))
    try:
        yield ran
    finally:
        stop.set()
        await running


async def test_both_can_do_all_of_their_work(
    guarded: GuardedServer, config_for: Callable[..., WorkerConfig]
) -> None:
    guarded.flush()
    admin = guarded.login("admin")
    admin.execute_command("ACL", "LOG", "RESET")
    as_worker = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "worker")), max_retries=2)
    as_publisher = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "publisher")))
    client = connect(as_worker.location)
    redis = cast("RedisClient", client)
    async with (
        ArqAdapter(as_publisher) as jobs,
        EventPublisher(as_publisher) as events,
        serving(as_worker) as ran,
    ):
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
        assert {"tick", "order 1"} <= set(ran)

        messages, dead_jobs = SetAside.dlq(redis, "orders"), SetAside.dlq(redis, "arq:queue")
        await until(messages.size)
        await until(dead_jobs.size)
        found = await snapshot(redis, as_worker, None)
        assert found.queue.dlq == 1
        for dead in (messages, dead_jobs):
            (entry,) = [entry async for entry in dead.scan()]
            assert await dead.replay(entry, 3) == "replayed"
            await until(dead.size)
            (entry,) = [entry async for entry in dead.scan(until=await dead.newest())]
            assert await dead.purge(entry)
        parked = SetAside(redis, "orders:parked")
        (entry,) = [entry async for entry in parked.scan()]
        assert entry.event_type == "order.lost"
    await client.aclose(close_connection_pool=True)
    assert ran.count("order 0") == ran.count("job 0") == 4

    # Redis itself says what it refused, inside scripts, too.
    refused = {(row["username"], row["object"]) for row in admin.acl_log()}
    admin.close()
    assert {what for _, what in refused} <= {"client|setinfo", "client"}, refused


async def test_plain_arq_needs_what_the_file_names(
    tmp_path: Path, config_for: Callable[..., WorkerConfig]
) -> None:
    text = rendered()
    (more,) = re.findall(r"^# Plain arq needs, too: (.*)\.$", text, re.MULTILINE)
    tries: list[int] = []

    async def job(ctx: Ctx) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Retry(defer=0.01)
        if len(tries) == 2:
            raise ValueError

    async def tick(ctx: Ctx) -> None:
        tries.append(1)

    text = re.sub(r"(?m)^user worker .*$", rf"\g<0> {more}", text)
    with GuardedServer(deployed(tmp_path, text)) as server:
        config = config_for(server, redis_dsn=SecretStr(dsn(server, "worker")))
        with contextlib.closing(ArqAdapter(config)) as jobs:
            for _ in range(2):
                jobs.enqueue_sync("job")
        worker = Worker(
            [func(cast("Any", job), name="job")],
            cron_jobs=[cron(cast("Any", tick), name="tick", run_at_startup=True)],
            redis_settings=config.redis_settings,
            job_serializer=wire.dumps,
            job_deserializer=wire.loads,
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
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "DBSIZE", "CONFIG GET *", "CONFIG SET maxmemory 1",
    "ACL LIST", "ACL SETUSER worker +@all", "CLIENT LIST", "CLIENT KILL TYPE normal",
    "SHUTDOWN NOSAVE", "SAVE", "REPLICAOF NO ONE", "SCRIPT FLUSH", "MONITOR", "MODULE LIST",
    "RENAME orders mine", "DUMP orders", "COPY orders mine", "EXPIRE orders 1", "SORT orders",
    "MIGRATE h 1 orders 0 1", "XGROUP DESTROY orders workers", "XGROUP SETID orders workers 0",
    "GET session:1", "SET session:1 x", "XADD other * a b", "ZADD arq:other 1 a",
    "SUBSCRIBE other", "PSUBSCRIBE *", "PUBLISH other x",
)  # fmt: skip
PUBLISHER = (
    "INFO", "XRANGE orders - +", "XREAD STREAMS orders 0", "XLEN orders", "XDEL orders 1-1",
    "XTRIM orders MAXLEN 0", "XREADGROUP GROUP workers me STREAMS orders >",
    "XACK orders workers 1-1", "XADD orders:dlq * a b", "XADD arq:queue:dlq * a b", "DEL orders",
    "DEL arq:job:1", "SET arq:queue:cron:tick 1", "SET orders:dlq x", "GET arq:queue:health-check",
    "SUBSCRIBE arq:queue:wake", "MGET arq:job:1",
)  # fmt: skip


def refused(server: GuardedServer, user: str, *words: str) -> str:
    with server.login(user) as client, pytest.raises(ResponseError) as caught:
        client.execute_command(*words)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("user", "lines"), [("worker", EVERYBODY), ("publisher", EVERYBODY + PUBLISHER)]
)
def test_what_is_none_of_their_work_is_refused(
    guarded: GuardedServer, user: str, lines: tuple[str, ...]
) -> None:
    for line in lines:
        assert "NoPermissionError" in refused(guarded, user, *line.split()), line


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
    guarded: GuardedServer, config_for: Callable[..., WorkerConfig]
) -> None:
    guarded.flush()
    as_publisher = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "publisher")))
    as_worker = config_for(guarded, redis_dsn=SecretStr(dsn(guarded, "worker")))
    async with ArqAdapter(as_publisher) as jobs, EventPublisher(as_publisher) as events:
        await events.publish(*[OrderPaid(order_id=n) for n in range(3)])
        jobs.enqueue_sync("work", "other's data")
        client = jobs.for_threads
        (job_id,) = client.zrange("arq:queue", 0, -1)
        assert b"other's data" in client.get(b"arq:job:" + job_id)
        client.zrem("arq:queue", job_id)
        client.execute_command("XADD", "orders", "MAXLEN", "0", "*", "a", "b")
        forged = {"type": "order.paid", "data": "{}", "_retries": "9"}
        await jobs.enqueue("requeue_to_stream", "orders", forged)
        with guarded.login("admin") as admin:
            admin.select(1)
            async with serving(as_worker) as ran:
                await until(lambda: "gave up after 10 tries" in str(admin.xrange("orders:dlq")))
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


# --- the suites

TYPING_MISTAKES = (
    "tests/process/test_operate_commands.py::test_bad_input_is_told_and_changes_nothing"
)
SUITES = {
    "worker": (
        "tests/jobs/test_job_queue.py", "tests/jobs/test_job_cron.py",
        "tests/jobs/test_job_failures.py", "tests/jobs/test_job_mixed.py",
        "tests/streams/test_stream_settling.py", "tests/process/test_operate_commands.py",
        f"--deselect={TYPING_MISTAKES}",  # in a stream's name, to which there is no right
    ),
    "publisher": ("tests/base/test_delivery.py",),
}  # fmt: skip


def run_suite(user: str, *tests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            "-p",
            "no:cacheprovider",
            "-p",
            "acl_suite",
            *tests,
        ],
        cwd=HERE.parents[1],
        env=os.environ | {"ACL_USER": user, "PYTHONPATH": str(HERE)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


@pytest.mark.parametrize("user", SUITES)
def test_suites_pass_as_a_user_of_the_file(user: str) -> None:
    done = run_suite(user, *SUITES[user])

    assert done.returncode == 0, done.stdout[-8_000:]
    assert " passed" in done.stdout


def test_a_suite_fails_as_a_user_who_may_not_do_its_work() -> None:
    done = run_suite("publisher", "tests/base/test_requeue.py")

    assert done.returncode == 1, done.stdout[-8_000:]
    assert re.search("No permissions to access a key|can't access", done.stdout)
