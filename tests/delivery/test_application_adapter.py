"""Applications enqueue jobs, sync and async, with and without an event loop."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as sync
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, SerializationError, deserialize_job
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until_true
from workerbase import WorkerConfig
from workerbase.broker import codec, enqueue
from workerbase.delivery import ArqAdapter
from workerbase.errors import ConfigError
from workerbase.testing.redis_server import Server

QUEUE = "arq:queue"


@pytest.fixture
def jobs(server: Server, config_for: Callable[..., WorkerConfig]) -> Iterator[ArqAdapter]:
    adapter = ArqAdapter(config_for(server))
    yield adapter
    adapter.close()


@pytest.fixture
def admin(server: Server) -> Iterator[sync.Redis]:
    with sync.Redis(port=server.port) as client:
        yield client


def connected(admin: sync.Redis, count: int) -> None:
    """Wait until ``admin`` and ``count`` others are connected: a server notices an end later."""
    what = f"{count} other connections"
    until_true(lambda: len(admin.client_list()) == 1 + count, what, patience=10)


async def as_stored(redis: ArqRedis, job_id: str, queue: str) -> dict[str, Any]:
    """What Redis holds of a job, without the moment at which it was enqueued."""
    body = await redis.get(f"arq:job:{job_id}")
    job = deserialize_job(body, deserializer=codec.loads)
    enqueued_ms = job.enqueue_time.timestamp() * 1000
    score = await redis.zscore(queue, job_id)
    assert score is not None
    return {
        "keys": body.keys() if isinstance(body, dict) else sorted(codec.loads(body)),
        "call": (job.function, list(job.args), job.kwargs, job.job_try),
        "waits_5_s": round((score - enqueued_ms) / 5_000),
        "expires_5_s": round(await redis.pttl(f"arq:job:{job_id}") / 5_000),
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"_job_id": "mine"},
        {"_queue_name": "mail"},
        {"_defer_by": 60},
        {"_defer_by": 0.5},
        {"_defer_by": timedelta(hours=1)},
        {"_expires": 30},
        {"_expires": timedelta(minutes=2), "_defer_by": 5},
    ],
    ids=str,
)
async def test_a_sync_enqueue_writes_what_arq_writes(
    jobs: ArqAdapter, redis: ArqRedis, options: dict[str, Any]
) -> None:
    queue = options.get("_queue_name", QUEUE)
    args = (1, "two", datetime(2026, 1, 2, tzinfo=UTC))
    job = await jobs.enqueue("work", *args, key=b"word", **options)
    assert isinstance(job, Job)
    by_async = await as_stored(redis, job.job_id, queue)
    await redis.flushall()
    job_id = jobs.enqueue_sync("work", *args, key=b"word", **options)
    assert job_id is not None
    assert options.get("_job_id", job_id) == job_id
    assert await as_stored(redis, job_id, queue) == by_async
    assert set(await redis.keys("*")) == {f"arq:job:{job_id}".encode(), queue.encode()}
    await jobs.aclose()


async def test_a_fixed_moment_is_kept_even_one_that_has_passed(
    jobs: ArqAdapter, redis: ArqRedis
) -> None:
    for when in (datetime(2040, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)):
        job_id = jobs.enqueue_sync("work", _defer_until=when)
        assert job_id is not None
        assert await redis.zscore(QUEUE, job_id) == when.timestamp() * 1000
        assert await redis.pttl(f"arq:job:{job_id}") > 80_000_000


@pytest.mark.parametrize("result", [False, True])
async def test_none_means_that_a_job_or_a_result_of_this_id_exists(
    each_server: Server, config_for: Callable[..., WorkerConfig], result: bool
) -> None:
    jobs = ArqAdapter(config_for(each_server))
    if result:
        jobs.for_threads.set("arq:result:same", "x")
    else:
        assert jobs.enqueue_sync("work", _job_id="same") == "same"
    assert jobs.enqueue_sync("work", _job_id="same") is None
    assert await jobs.enqueue("work", _job_id="same") is None
    await jobs.aclose()


def test_two_times_are_refused_and_so_is_what_has_no_json_form(jobs: ArqAdapter) -> None:
    with pytest.raises(RuntimeError, match="not both"):
        jobs.enqueue_sync("work", _defer_until=datetime.now(UTC), _defer_by=1)
    with pytest.raises(SerializationError):
        jobs.enqueue_sync("work", object())
    assert jobs.for_threads.dbsize() == 0


async def test_a_sync_call_works_inside_a_running_loop(jobs: ArqAdapter, redis: ArqRedis) -> None:
    assert jobs.enqueue_sync("work")
    assert await asyncio.to_thread(jobs.enqueue_sync, "work")
    assert await redis.zcard(QUEUE) == 2


def test_threads_share_one_adapter(jobs: ArqAdapter, admin: sync.Redis) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda n: jobs.enqueue_sync("work", n), range(80)))
    assert len(ids) == 80
    assert admin.zcard(QUEUE) == 80


def test_each_event_loop_gets_a_client_that_is_closed_when_the_loop_ends(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    """As async_to_sync does it in Django and Flask: a loop for each call, closed by nobody."""
    loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    async def call(number: int) -> None:
        loops.add(asyncio.get_running_loop())
        await jobs.enqueue("work", number)

    for number in range(30):
        asyncio.run(call(number))
    assert admin.zcard(QUEUE) == 30
    connected(admin, 0)
    gc.collect()
    assert len(loops) == 0


# asyncio itself warns of the transports that such a loop leaves behind.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore:.*:pytest.PytestUnraisableExceptionWarning"
)
def test_loops_that_were_closed_without_more_do_not_keep_their_connections(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    connected(admin, 0)
    for number in range(200):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(jobs.enqueue("work", number))
        loop.close()
    assert len(admin.client_list()) <= 1 + 2
    assert admin.zcard(QUEUE) == 200
    jobs.close()
    connected(admin, 0)


def test_threads_with_loops_of_their_own_share_one_adapter(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    async def many() -> None:
        await asyncio.gather(*(jobs.enqueue("work", n) for n in range(5)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asyncio.run(many()), range(12)))
    assert admin.zcard(QUEUE) == 60
    connected(admin, 0)


async def test_one_loop_has_one_client(jobs: ArqAdapter, admin: sync.Redis) -> None:
    connected(admin, 0)
    for _ in range(5):
        await jobs.enqueue("work")
    assert jobs.for_loop is jobs.for_loop
    connected(admin, 1)
    await jobs.aclose()
    connected(admin, 0)


async def test_an_adapter_can_be_closed_twice_and_used_again(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    connected(admin, 0)
    for number in (1, 2):
        async with jobs:
            await jobs.enqueue("work")
            jobs.enqueue_sync("work")
        connected(admin, 0)
        await jobs.aclose()
        jobs.close()
        assert admin.zcard(QUEUE) == 2 * number


async def test_errors_are_raised_and_the_adapter_works_again_when_redis_is_back(
    own_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with ArqAdapter(config_for(own_server)) as jobs:
        jobs.enqueue_sync("work")
        await jobs.enqueue("work")
        own_server.kill()
        with pytest.raises(RedisConnectionError):
            jobs.enqueue_sync("work")
        with pytest.raises(RedisConnectionError):
            await jobs.enqueue("work")
        own_server.start()
        kept = jobs.for_threads.zcard(QUEUE)
        assert jobs.enqueue_sync("work")
        assert await jobs.enqueue("work")
        assert jobs.for_threads.zcard(QUEUE) == kept + 2


def test_without_a_configuration_the_environment_says_where_redis_is(
    server: Server, admin: sync.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = ArqAdapter()
    monkeypatch.setenv("WORKER_REDIS_DSN", "nonsense")
    with pytest.raises(ConfigError, match="WORKER_REDIS_DSN"):
        adapter.enqueue_sync("work")
    monkeypatch.setenv("WORKER_REDIS_DSN", server.dsn)
    monkeypatch.setenv("WORKER_QUEUE_NAME", "mail")
    assert adapter.enqueue_sync("work")
    assert admin.zcard("mail") == 1
    adapter.close()


@pytest.mark.parametrize("kwargs", [{"serializer": "csv"}, {"max_payload": 5}])
async def test_arguments_of_a_task_may_have_any_name(
    server: Server, kwargs: dict[str, object]
) -> None:
    adapter = ArqAdapter(WorkerConfig(redis_dsn=SecretStr(server.dsn)))
    async with adapter as jobs:
        job = await jobs.enqueue("export", **kwargs)
        assert job
        assert (await job.info()).kwargs == kwargs  # type: ignore[union-attr]
        job_id = jobs.enqueue_sync("export", **kwargs)
        assert job_id


async def test_a_job_without_an_id_of_its_own_is_new_although_the_first_answer_was_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = enqueue._ENQUEUE

    class Again:
        """Sends the script twice, as redis-py does after a lost connection."""

        async def __call__(self, *args: Any) -> Any:
            await script(*args)
            return await script(*args)

        def run_sync(self, *args: Any) -> Any:
            script.run_sync(*args)
            return script.run_sync(*args)

    monkeypatch.setattr(enqueue, "_ENQUEUE", Again())
    async with ArqAdapter(WorkerConfig(redis_dsn=SecretStr(server.dsn))) as jobs:
        job = await jobs.enqueue("export")
        assert job
        assert jobs.enqueue_sync("export")
        assert await jobs.enqueue("export", _job_id="given") is None
        assert jobs.enqueue_sync("export", _job_id="given too") is None


async def test_a_handle_to_a_job_is_had_by_its_id(jobs: ArqAdapter) -> None:
    assert await jobs.job("unknown").status() is JobStatus.not_found
    job_id = jobs.enqueue_sync("work", 1, key="word")
    assert job_id is not None

    handle = jobs.job(job_id)

    assert await handle.status() is JobStatus.queued
    info = await handle.info()
    assert info is not None
    assert (info.function, [*info.args], info.kwargs) == ("work", [1], {"key": "word"})
