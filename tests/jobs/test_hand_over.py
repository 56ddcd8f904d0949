"""Jobs of our clients start at once in an idle worker, those of plain arq are found by polling."""

import asyncio
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
from arq import ArqRedis
from jobkit import QUEUE, calls, client_of, read_both, until, working
from workerbase.base import BaseArqService
from workerbase.broker import codec, wakeup
from workerbase.delivery.arq import ArqAdapter
from workerbase.jobs.queue import Claim, JobQueue
from workerbase.task_utils import enqueue_in
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def idle(server: Server, config_for: ConfigFor) -> Config:
    """A worker that polls so seldom that only being woken explains a quick start."""
    return config_for(server, poll_delay=30, lease_timeout=60)


def plain(config: Config) -> ArqRedis:
    """Plain arq's client."""
    host, port = config.dsn.hosts[0]
    return ArqRedis(host=host, port=port, job_serializer=codec.dumps, job_deserializer=codec.loads)


async def test_a_listener_that_hears_nothing_keeps_its_connection_in_use(
    idle: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "QUIET_S", 0.05)

    async def pinged(client: ArqRedis) -> bool:
        found = await client.execute_command("CLIENT LIST", "TYPE", "pubsub")
        return any(one["cmd"] == "ping" for one in found)

    async with client_of(idle) as client, working(idle):
        await until(lambda: pinged(client))


WAYS = ["async adapter", "sync adapter", "service", "enqueue_in", "client"]


@pytest.mark.parametrize("way", WAYS)
async def test_an_enqueue_wakes_an_idle_worker(idle: Config, way: str) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    async with client_of(idle) as client, working(idle, job):
        start = time.monotonic()
        if way == "async adapter":
            async with ArqAdapter(idle) as adapter:
                await adapter.enqueue("job")
        elif way == "sync adapter":
            adapter = ArqAdapter(idle)
            await asyncio.to_thread(adapter.enqueue_sync, "job")
            adapter.close()
        elif way == "service":
            async with BaseArqService(idle) as service:
                await service.enqueue_job("job")
        elif way == "enqueue_in":
            await enqueue_in({"redis": client}, 0.3, "job")
        else:
            await client.enqueue_job("job")
        await asyncio.wait_for(ran.wait(), 5)
        assert way != "enqueue_in" or time.monotonic() - start >= 0.29


async def test_each_of_many_enqueues_wakes_whoever_is_idle(idle: Config) -> None:
    # While others run, the head of the queue is a job with a lease.
    ran: list[int] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def job(ctx: Ctx, number: int) -> None:
        ran.append(number)

    async with client_of(idle) as client, working(idle, job, hold), working(idle, job, hold):
        await client.enqueue_job("job", -1, _defer_by=3600)
        for _ in range(5):
            await client.enqueue_job("hold")
        for number in range(50):
            await client.enqueue_job("job", number)
            await until(lambda n=number: n in ran, 5)  # type: ignore[misc]
        go.set()


async def test_what_is_enqueued_while_nobody_listens_is_found_when_listening_again(
    idle: Config,
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    async with client_of(idle) as client, working(idle, job):
        async with client.pipeline(transaction=True) as pipe:
            new = client.new_job("job")
            pipe.client_kill_filter(_type="pubsub")
            pipe.set(new.keys[0], new.job)
            pipe.zadd(QUEUE, {new.job_id: 1})
            await pipe.execute()
        await asyncio.wait_for(ran.wait(), 5)


async def test_plain_arqs_enqueue_is_found_by_polling(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, poll_delay=0.3)
    async with working(config, job):
        client = plain(config)
        await client.enqueue_job("job")
        await client.aclose(close_connection_pool=True)
        await asyncio.wait_for(ran.wait(), 5)


@pytest.mark.parametrize("aborts", [False, True])
async def test_an_idle_worker_sends_less_than_five_commands_a_second(
    server: Server, config_for: ConfigFor, aborts: bool
) -> None:
    config = config_for(server, poll_delay=1.0, lease_timeout=15)
    async with client_of(config) as client, working(config, allow_abort_jobs=aborts):
        await client.config_resetstat()
        await asyncio.sleep(3)
        used = await calls(client)
    used.pop("info", None)
    used.pop("config|resetstat", None)
    assert 0 < sum(used.values()) / 3 < 5, used


async def is_idle(client: ArqRedis) -> bool:
    return bool(await client.scard(f"{QUEUE}:idle"))


async def test_an_idle_worker_is_handed_the_job_and_asks_for_more(
    idle: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    claimed: list[str] = []
    real = JobQueue.claim

    async def claim(self: JobQueue, *args: Any, **options: Any) -> Any:
        claims, due = await real(self, *args, **options)
        claimed.extend(claim.job_id for claim in claims)
        return claims, due

    monkeypatch.setattr(JobQueue, "claim", claim)

    async def job(ctx: Ctx, number: int) -> int:
        ran.append(number)
        return number

    async with client_of(idle) as client, working(idle, job):
        for number in range(5):
            await until(lambda: is_idle(client))
            added = await client.enqueue_job("job", number)
            assert added
            assert await added.result(timeout=5, poll_delay=0.01) == number
        assert claimed == []
        later = await client.enqueue_job("job", 5, _defer_by=0.3)
        assert await is_idle(client), "what is not due yet is handed to nobody"
        await until(lambda: ran == [*range(6)])
        assert later
        assert claimed == [later.job_id]


async def test_a_worker_whose_slots_are_taken_is_handed_nothing(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, poll_delay=30, lease_timeout=60, max_jobs=1)
    ran: list[str] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        ran.append("hold")
        await go.wait()

    async def job(ctx: Ctx) -> None:
        ran.append("job")

    async with client_of(config) as client, working(config, hold, job):
        await until(lambda: is_idle(client))
        await client.enqueue_job("hold")
        await until(lambda: ran)
        # It may have been listed before it was full: it is then handed one more, and no more.
        for _ in range(3):
            await client.enqueue_job("job")
            await asyncio.sleep(0.05)
        assert not await is_idle(client)
        async with working(config, hold, job):
            await until(lambda: ran.count("job") >= 2)
            go.set()
            await until(lambda: ran.count("job") == 3)


async def test_what_a_worker_was_handed_and_never_saw_runs_elsewhere_when_it_stops(
    idle: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> int:
        ran.set()
        return int(str(ctx["job_try"]))

    async with client_of(idle) as client:
        with monkeypatch.context() as deaf:
            async with working(idle, job):
                await until(lambda: is_idle(client))
                deaf.setattr(Claim, "from_hand_over", lambda *_: exec("raise ConnectionError"))
                added = await client.enqueue_job("job")
                assert added
                await asyncio.sleep(0.1)
                assert not ran.is_set()
        async with working(idle, job):
            assert await added.result(timeout=5, poll_delay=0.01) == 1


async def test_the_set_of_idle_workers_does_not_outlive_them(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, lease_timeout=1.0)

    async def job(ctx: Ctx) -> None: ...

    async with client_of(config) as client:
        async with working(config, job):
            await until(lambda: is_idle(client))
            assert 0 < await client.pttl(f"{QUEUE}:idle") <= 1_000
        assert not await is_idle(client)


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server)


@pytest.mark.parametrize("write", [codec.dumps, pickle.dumps])
async def test_a_job_is_handed_over_whole_whatever_is_in_it(
    config: Config, write: Callable[[object], bytes]
) -> None:
    seen: list[tuple[object, object, object]] = []

    async def job(ctx: Ctx, text: str) -> None:
        seen.append((ctx["job_id"], ctx["job_try"], text))

    async with client_of(config) as client, working(config, job, job_deserializer=read_both):
        client.job_serializer = write

        async def idle() -> int:
            return await client.exists(f"{QUEUE}:idle")

        await until(idle)
        await client.enqueue_job("job", "x\0y", _job_id="a\0b")
        await until(lambda: seen)
    assert seen == [("a\0b", 1, "x\0y")]
