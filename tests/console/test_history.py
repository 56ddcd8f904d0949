"""Workers leave a bounded history in Redis, and one sample of it feeds all browsers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from consolekit import ConfigFor, OrderPlaced, settings_of
from redis.exceptions import RedisError
from waiting import until
from workerbase import Ctx, task
from workerbase.broker import keys
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.console.history import KEPT_S, MAX_RUNNING, SPAN_S, STALE_S, Recorder
from workerbase.console.records import FRESH_S, read_points, read_workers
from workerbase.console.sampler import Sampler
from workerbase.monitor import Work
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings
from workerbase.process.settings import resolved_settings
from workerbase.streams import publish
from workerbase.testing import Server
from workerbase.types import RedisClient
from workerconfig import Config

QUEUE = "arq:queue"


@pytest.fixture
def config(each_server: Server, config_for: ConfigFor) -> Config:
    return config_for(each_server, max_retries=1, consumer_group="shop", drain_timeout=1)


@pytest.fixture
def settings(config: Config) -> ResolvedSettings:
    return resolved_settings(settings_of(config))


@pytest.fixture
async def redis(config: Config) -> AsyncIterator[QueueClient]:
    client = connect(config.dsn)
    yield client
    await client.aclose(close_connection_pool=True)


def work(number: int, name: str = "order.placed") -> Work:
    return Work("message", "orders", name, f"m-{number}", 1, data=b'{"secret": 1}')


async def test_a_worker_counts_what_it_did_and_takes_its_leave(
    settings: ResolvedSettings, redis: QueueClient
) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(serve(settings, stop))
    await publish(cast("RedisClient", redis), *(OrderPlaced(order_id=n) for n in range(6)))
    await until(lambda: redis.xlen("orders:dlq"))
    await until(lambda: redis.hexists(keys.workers(QUEUE), Recorder().name))
    stop.set()
    await running

    spans = sorted(await redis.keys(f"{QUEUE}:history:*"))
    counts: dict[str, int] = {}
    for span in spans:
        for name, value in (await redis.hgetall(span)).items():
            counts[name.decode()] = counts.get(name.decode(), 0) + int(value)
        assert 0 < await redis.ttl(span) <= KEPT_S
    assert (counts["handled"], counts["dead_lettered"]) == (3, 3)
    assert {"waiting", "dead", "memory", "oldest_ms", "workers"} <= counts.keys()
    assert await redis.hgetall(keys.workers(QUEUE)) == {}


async def test_a_lost_cancellation_does_not_keep_a_worker_from_its_end(
    settings: ResolvedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, stop, flush = asyncio.Event(), asyncio.Event(), Recorder.flush

    async def slow(*args: Any) -> None:
        try:
            await flush(*args)
            if not stop.is_set():
                flushing.set()
                await asyncio.sleep(3600)
        except asyncio.CancelledError:  # as `asyncio.wait_for` of Python 3.11 loses it
            pass

    monkeypatch.setattr(Recorder, "flush", slow)
    running = asyncio.create_task(serve(settings, stop))
    await flushing.wait()
    stop.set()
    await running


async def test_of_each_span_one_worker_samples_the_queues(
    settings: ResolvedSettings, redis: QueueClient
) -> None:
    one, other = Recorder(), Recorder()
    other.name = "another-1"
    span = keys.history(QUEUE, int(time.time()) // SPAN_S * SPAN_S)
    await one.flush(redis, settings)
    await redis.hset(span, "waiting", 77)
    await other.flush(redis, settings)

    later = keys.history(QUEUE, int(time.time()) // SPAN_S * SPAN_S)
    assert later != span or await redis.hget(span, "waiting") == b"77"


async def test_a_worker_describes_what_it_has_in_work_and_no_payload(
    settings: ResolvedSettings, redis: QueueClient
) -> None:
    recorder = Recorder()
    contexts = [recorder.around(work(number)) for number in range(MAX_RUNNING + 5)]
    for context in contexts:
        context.__enter__()
    contexts.pop().__exit__(None, None, None)
    recorder.on_finished(work(0), "handled", None, 0.5)
    recorder.on_finished(work(0), "retried", ValueError("x"), 1.5)
    recorder.on_finished(work(0, "requeue_to_stream"), "handled", None, 9.0)
    recorder.on_breaker(is_open=True)
    await recorder.flush(redis, settings)

    assert b"secret" not in (await redis.hget(keys.workers(QUEUE), recorder.name) or b"")
    (found,) = await read_workers(redis, QUEUE)
    assert (found.in_work, len(found.running)) == (MAX_RUNNING + 4, MAX_RUNNING)
    assert (found.running[0].id, found.running[0].name) == ("m-0", "order.placed")
    assert found.outcomes == {"handled": 1, "retried": 1}
    assert (found.recent, found.mean_s, found.breaker_open) == (2, 1.0, True)
    assert not found.is_silent(time.time())
    assert found.is_silent(time.time() + FRESH_S + 1)


async def test_nothing_is_forgotten_while_redis_does_not_answer(
    own_server: Server, config_for: ConfigFor
) -> None:
    settings = resolved_settings(settings_of(config_for(own_server)))
    redis = connect(settings.config.dsn)
    recorder = Recorder()
    recorder.on_finished(work(1), "handled", None, 0.1)
    own_server.kill()
    with pytest.raises(RedisError):
        await recorder.flush(redis, settings)
    recorder.on_finished(work(2), "handled", None, 0.1)
    own_server.start()
    await recorder.flush(redis, settings)
    (found,) = await read_workers(redis, QUEUE)
    assert found.outcomes == {"handled": 2}
    await recorder.flush(redis, settings)
    points = [await redis.hget(key, "handled") for key in await redis.keys("*:history:*")]
    assert sum(int(value or 0) for value in points) == 2
    await redis.aclose(close_connection_pool=True)


async def test_a_worker_that_died_is_forgotten_after_a_while(
    settings: ResolvedSettings, redis: QueueClient
) -> None:
    old = {"at": time.time() - STALE_S - 1}
    await redis.hset(keys.workers(QUEUE), "dead-1", json.dumps(old))
    await Recorder().flush(redis, settings)

    async def cleaned() -> bool:
        await Recorder().flush(redis, settings)
        return not await redis.hexists(keys.workers(QUEUE), "dead-1")

    await until(cleaned)


async def test_the_last_run_of_a_cron_job_is_kept(config: Config, redis: QueueClient) -> None:
    ran = asyncio.Event()

    @task(max_retries=1)
    async def tick(ctx: Ctx) -> None:
        ran.set()
        raise ValueError("no")

    crons: Any = [tick.cron(second=set(range(60)))]
    settings = resolved_settings(settings_of(config, functions=[tick], cron_jobs=crons))
    stop = asyncio.Event()
    running = asyncio.create_task(serve(settings, stop))
    await ran.wait()
    await until(lambda: redis.xlen("arq:queue:dlq"))
    stop.set()
    await running
    ((name, value),) = (await redis.hgetall(keys.cron_runs(QUEUE))).items()
    assert name.decode().startswith("cron:")
    assert json.loads(value)["outcome"] == "dead_lettered"


async def test_the_history_is_read_once_and_then_only_what_is_new(
    config: Config, redis: QueueClient
) -> None:
    now = int(time.time()) // SPAN_S * SPAN_S
    for start, handled in ((now - 3 * SPAN_S, 3), (now - SPAN_S, 1), (now, 100)):
        await redis.hset(keys.history(QUEUE, start), "handled", handled)
    points = await read_points(redis, QUEUE)
    by_start = {point.at: point for point in points if point.known}
    assert len(points) == KEPT_S // SPAN_S - 1
    assert by_start[now - 3 * SPAN_S].handled == 6  # a minute
    before = int((await redis.info("commandstats"))["cmdstat_hgetall"]["calls"])
    again = await read_points(redis, QUEUE, points)
    after = int((await redis.info("commandstats"))["cmdstat_hgetall"]["calls"])
    assert again[:-2] == points[: len(again) - 2] or after - before <= 3
    assert after - before <= 3


async def test_followers_share_one_sample_and_none_is_taken_for_nobody(
    settings: ResolvedSettings, redis: QueueClient
) -> None:
    sampler = Sampler(lambda: redis, settings)
    numbers: dict[int, list[int]] = {n: [] for n in range(5)}

    async def look(place: int) -> None:
        async for sample in sampler.follow():
            assert sample is not None
            numbers[place].append(sample.number)
            if len(numbers[place]) == 2:
                return

    await asyncio.gather(*(look(place) for place in numbers))

    assert {tuple(seen) for seen in numbers.values()} == {(1, 2)}
    assert sampler.followers == 0
    assert (await sampler.current()).number == 2
