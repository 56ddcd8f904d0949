"""arq's own worker runs requeue_to_stream as any job."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from workerbase import BaseArqWorkerSettings, WorkerConfig
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.process.settings import arq_arguments, resolved_settings
from workerbase.testing import Server
from workerbase.types import Payload

STREAM = "orders"


@pytest.fixture
async def each_redis(
    each_server: Server, config_for: Callable[..., WorkerConfig]
) -> AsyncIterator[ArqRedis]:
    client = connect(config_for(each_server).dsn)
    yield client
    await client.aclose(close_connection_pool=True)


async def entries(redis: ArqRedis, stream: str) -> list[Payload]:
    found = await redis.xrange(stream)
    return [{codec.decode(k): codec.decode(v) for k, v in fields.items()} for _, fields in found]


def worker_for(settings_config: WorkerConfig, redis: ArqRedis) -> Worker:
    class Settings(BaseArqWorkerSettings):
        config = settings_config
        poll_delay = 0.01

    arguments = arq_arguments(resolved_settings(Settings))
    return Worker(
        **(arguments | {"burst": True}),
        redis_pool=redis,
        handle_signals=False,
        ctx=dict(Settings.ctx),
    )


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_arqs_worker_requeues_and_leaves_neither_job_nor_result(
    each_server: Server, each_redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    payload = {"type": "x", "_entry_id": "1-0"}
    job = await each_redis.enqueue_job("requeue_to_stream", STREAM, payload)
    assert job is not None
    worker = worker_for(config_for(each_server), each_redis)
    await worker.main()
    assert worker.jobs_complete == 1
    (back,) = await entries(each_redis, STREAM)
    assert back["_retries"] == "1"
    assert await each_redis.keys("arq:job:*") == []
    assert await each_redis.keys("arq:result:*") == []
    assert await each_redis.zcard("arq:queue") == 0
    await worker.close()


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_arqs_worker_keeps_a_job_that_failed_and_defers_it(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    await redis.set(STREAM, "text")
    await redis.enqueue_job("requeue_to_stream", STREAM, {"type": "x"}, _job_id="j1")
    worker = worker_for(config_for(server), redis)
    main = asyncio.create_task(worker.main())
    while worker.jobs_retried < 1:
        assert not main.done()
        await asyncio.sleep(0.01)
    assert await redis.exists("arq:job:j1") == 1
    assert await redis.zcard("arq:queue") == 1
    await redis.delete(STREAM)
    await redis.zadd("arq:queue", {"j1": 1}, xx=True)
    async with asyncio.timeout(30):
        await main
    assert worker.jobs_complete == 1
    assert len(await entries(redis, STREAM)) == 1
    await worker.close()


@pytest.mark.parametrize("args", [("two words", {"type": "x"}), (STREAM,), (), (STREAM, {}, 3)])
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_a_malformed_job_ends_as_one_dead_letter_with_the_job_as_it_is(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig], args: tuple[Any, ...]
) -> None:
    await redis.enqueue_job("requeue_to_stream", *args, _job_id="j1")
    worker = worker_for(config_for(server), redis)
    async with asyncio.timeout(30):
        await worker.main()
    (dead,) = await entries(redis, "arq:queue:dlq")
    assert json.loads(dead["data"])["args"] == list(args)
    assert codec.loads(codec.encode(dead["_job"]))["a"] == list(args)
    assert await redis.zcard("arq:queue") == 0
    assert await entries(redis, STREAM) == []
    await worker.close()
