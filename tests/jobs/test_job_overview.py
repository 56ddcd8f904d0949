"""What `overview` reports of jobs: who runs them and since when, and what is due later."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from arq import ArqRedis, Worker, func
from jobkit import client_of, settings_of, until, working
from workerbase.broker import codec
from workerbase.console.overview import PLAIN_ARQ, overview
from workerbase.process.settings import resolved_settings
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]
HOURS_S = 86_400.0


@asynccontextmanager
async def plain_worker(client: ArqRedis, function: Any) -> AsyncIterator[None]:
    worker = Worker(
        [func(function, name="wait")],
        redis_pool=client,
        job_serializer=codec.dumps,
        job_deserializer=codec.loads,
        handle_signals=False,
        poll_delay=0.05,
    )
    running = asyncio.create_task(worker.main())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, *worker.tasks.values(), return_exceptions=True)


async def test_running_jobs_are_listed_with_function_owner_age_and_attempt(
    each_server: Server, config_for: ConfigFor
) -> None:
    go, begun = asyncio.Event(), list[str]()

    async def wait(ctx: Ctx, secret: str) -> None:
        begun.append(secret)
        await go.wait()

    config = config_for(each_server)
    async with client_of(config) as client, working(config, wait) as worker:
        for number in range(2):
            await client.enqueue_job("wait", "hunter2", _job_id=f"job-{number}")
        await client.enqueue_job("wait", "hunter2", _job_id="tomorrow", _defer_by=HOURS_S)
        await until(lambda: len(begun) == 2)
        await asyncio.sleep(1.1)  # longer than a lease: a renewal does not make it younger
        found = await overview(client, resolved_settings(settings_of(config)))
        go.set()
    process = worker.name.rpartition("-")[0]
    assert process.endswith(f"-{os.getpid()}")
    assert found.jobs == 2
    assert {(i.what, i.id, i.worker, i.attempt) for i in found.in_flight} == {
        ("wait", f"job-{number}", process, 1) for number in range(2)
    }
    assert all(item.age_s >= 1 for item in found.in_flight)
    assert [(w.name, w.messages, w.jobs, w.quiet_s) for w in found.workers] == [
        (process, 0, 2, None)
    ]
    later = found.later
    assert (later.total, later.messages, later.jobs, later.deferred) == (1, 0, 0, 1)
    assert [(due.kind, due.what, due.id) for due in later.first] == [
        ("deferred", "wait", "tomorrow")
    ]
    assert "hunter2" not in str(found)


async def test_a_job_that_failed_is_a_retry_to_come(
    each_server: Server, config_for: ConfigFor
) -> None:
    failed = list[str]()

    async def fails(ctx: Ctx) -> None:
        failed.append("once")
        msg = "not today"
        raise ValueError(msg)

    config = config_for(each_server, retry_backoff=HOURS_S, retry_backoff_max=HOURS_S)
    async with client_of(config) as client, working(config, fails):
        await client.enqueue_job("fails", _job_id="one")
        await until(lambda: failed)

        async def released() -> Any:
            found = await overview(client, resolved_settings(settings_of(config)))
            return found if not found.in_flight else None

        later = (await until(released)).later
    assert (later.total, later.messages, later.jobs, later.deferred) == (1, 0, 1, 0)
    (due,) = later.first
    assert (due.kind, due.what, due.id) == ("job", "fails", "one")
    assert 0 < due.in_s <= HOURS_S


async def test_jobs_of_plain_arq_are_listed_too(server: Server, config_for: ConfigFor) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(ctx: Ctx) -> None:
        begun.set()
        await go.wait()

    config = config_for(server)
    async with client_of(config) as client, plain_worker(client, wait):
        await client.enqueue_job("wait", _job_id="one")
        await until(begun.is_set)
        found = await overview(client, resolved_settings(settings_of(config)))
        go.set()
    (item,) = found.in_flight
    assert (item.what, item.id, item.worker, item.attempt) == ("wait", "one", PLAIN_ARQ, 1)
    assert 0 <= item.age_s < 60


async def test_a_job_that_cannot_be_read_has_no_function(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server)
    async with client_of(config) as client:
        await client.enqueue_job("known", _job_id="one", _defer_by=HOURS_S)
        await client.set("arq:job:other", b"\x80\x04pickled")
        await client.zadd("arq:queue", {"other": 9e14, "requeue:my own": 9.1e14})
        later = (await overview(client, resolved_settings(settings_of(config)))).later
        # The deserializer of the worker reads them here, too.
        job = {"f": "pickled", "a": (), "k": {}, "t": None, "et": 0}
        lenient = settings_of(config, job_deserializer=lambda data: job)
        read = (await overview(client, resolved_settings(lenient))).later
    assert [(due.kind, due.what, due.id) for due in later.first] == [
        ("deferred", "known", "one"),
        ("deferred", "?", "other"),
        ("deferred", "?", "requeue:my own"),
    ]
    assert [due.what for due in read.first] == ["pickled", "pickled", "?"]
