"""The application's side: enqueue and publish, sync and async, with and without a loop."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as sync
from arq.connections import ArqRedis
from arq.jobs import Job, SerializationError, deserialize_job
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import Event, WorkerConfig, scripts, wire
from workerbase.delivery.arq import ArqAdapter
from workerbase.delivery.streams import BATCH, EventPublisher, publish
from workerbase.devtools.server import Server
from workerbase.errors import ConfigError, RegistrationError
from workerbase.types import RedisClient

BASE = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"
QUEUE = "arq:queue"


class OrderPlaced(Event, type="order.placed", stream="orders"):
    order_id: int
    note: str = ""


class UserJoined(Event, type="user.joined", stream="users"):
    name: str


@pytest.fixture
def jobs(server: Server, config_for: Callable[..., WorkerConfig]) -> Iterator[ArqAdapter]:
    adapter = ArqAdapter(config_for(server))
    yield adapter
    adapter.close()


@pytest.fixture
def events(server: Server, config_for: Callable[..., WorkerConfig]) -> Iterator[EventPublisher]:
    publisher = EventPublisher(config_for(server))
    yield publisher
    publisher.close()


@pytest.fixture
def admin(server: Server) -> Iterator[sync.Redis]:
    with sync.Redis(port=server.port) as client:
        yield client


async def as_stored(redis: ArqRedis, job_id: str, queue: str) -> dict[str, Any]:
    """What Redis holds of a job, without the moment at which it was enqueued."""
    body = await redis.get(f"arq:job:{job_id}")
    job = deserialize_job(body, deserializer=wire.loads)
    enqueued_ms = job.enqueue_time.timestamp() * 1000
    score = await redis.zscore(queue, job_id)
    assert score is not None
    return {
        "keys": body.keys() if isinstance(body, dict) else sorted(wire.loads(body)),
        "call": (job.function, list(job.args), job.kwargs, job.job_try),
        "waits_s": round((score - enqueued_ms) / 1000, 1),
        "expires_s": round(await redis.pttl(f"arq:job:{job_id}") / 1000),
    }


# --- jobs


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
    assert len(admin.client_list()) == 1
    gc.collect()
    assert len(loops) == 0


def test_threads_with_loops_of_their_own_share_one_adapter(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    async def many() -> None:
        await asyncio.gather(*(jobs.enqueue("work", n) for n in range(5)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asyncio.run(many()), range(12)))
    assert admin.zcard(QUEUE) == 60
    assert len(admin.client_list()) == 1


async def test_one_loop_has_one_client(jobs: ArqAdapter, admin: sync.Redis) -> None:
    before = len(admin.client_list())
    for _ in range(5):
        await jobs.enqueue("work")
    assert jobs.for_loop is jobs.for_loop
    assert len(admin.client_list()) == before + 1
    await jobs.aclose()
    assert len(admin.client_list()) == before


async def test_an_adapter_can_be_closed_twice_and_used_again(
    jobs: ArqAdapter, admin: sync.Redis
) -> None:
    before = len(admin.client_list())
    for number in (1, 2):
        async with jobs:
            await jobs.enqueue("work")
            jobs.enqueue_sync("work")
        assert len(admin.client_list()) == before
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


# --- other processes

FORK = """
import asyncio, os, sys
from workerbase import Event
from workerbase.delivery.arq import ArqAdapter
from workerbase.delivery.streams import EventPublisher

class Ping(Event, type="ping", stream="pings"):
    number: int

jobs, events = ArqAdapter(), EventPublisher()

async def both(number):
    await jobs.enqueue("work", number)
    await events.publish(Ping(number=number))
    await jobs.aclose()
    await events.aclose()

def use(number):
    jobs.enqueue_sync("work", number)
    events.publish_sync(Ping(number=number))
    asyncio.run(both(number))
    jobs.enqueue_sync("work", number)

use(0)
jobs.enqueue_sync("work")  # open when the fork comes
children = []
for number in range(1, 5):
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            use(number)
        os._exit(0)
    children.append(pid)
use(5)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
use(6)
assert codes == [0] * 4, codes
"""


def test_adapters_that_were_used_before_a_fork_work_in_parent_and_children(
    server: Server, admin: sync.Redis, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(BASE), "WORKER_REDIS_DSN": server.dsn}
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uses = 3 + 4 * 5
    assert admin.zcard(QUEUE) == uses * 3 + 1
    assert admin.xlen("pings") == uses * 2


def test_the_application_imports_it_without_the_worker_and_its_environment(
    server: Server, admin: sync.Redis, tmp_path: Path
) -> None:
    package = tmp_path / "shop_worker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "workerbase").symlink_to(BASE / "workerbase")
    for name in ("settings", "worker", "tasks", "handlers"):
        (package / f"{name}.py").write_text("raise RuntimeError('the worker was imported')")
    script = (
        "import os\n"
        "from shop_worker.workerbase.delivery.arq import ArqAdapter\n"
        "from shop_worker.workerbase.delivery.streams import EventPublisher\n"
        "jobs, events = ArqAdapter(), EventPublisher()\n"  # still nothing is read
        "os.environ['WORKER_REDIS_DSN'] = os.environ.pop('REDIS')\n"
        "print(jobs.enqueue_sync('work', 1))\n"
    )
    environment = os.environ | {"REDIS": server.dsn, "WORKER_REDIS_DSN": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert admin.zrange(QUEUE, 0, -1) == [done.stdout.strip().encode()]


# --- events


def fields_of(admin: sync.Redis, stream: str) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in admin.xrange(stream)]


async def test_an_event_is_published_with_type_json_and_a_message_id_of_its_own(
    events: EventPublisher, client: RedisClient, admin: sync.Redis
) -> None:
    event = OrderPlaced(order_id=1, note="\N{SNOWMAN}")
    ids = [
        *events.publish_sync(event),
        *await events.publish(event),
        *await publish(client, event),
    ]
    assert [wire.text(entry_id) for entry_id, _ in admin.xrange("orders")] == ids
    found = fields_of(admin, "orders")
    assert {fields[b"type"] for fields in found} == {b"order.placed"}
    assert OrderPlaced.model_validate_json(found[0][b"data"]) == event
    assert len({fields[b"_id"] for fields in found}) == 3
    await events.aclose()


async def test_many_events_are_published_in_order_over_several_batches_and_streams(
    each_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with EventPublisher(config_for(each_server)) as events:
        many = [OrderPlaced(order_id=n) for n in range(2 * BATCH + 1)]
        for ids in (events.publish_sync(*many), await events.publish(*many)):
            assert len(ids) == len(many)
            order = [tuple(map(int, entry_id.split("-"))) for entry_id in ids]
            assert order == sorted(order)
        await events.publish(UserJoined(name="a"), OrderPlaced(order_id=0), UserJoined(name="b"))
        admin = events.for_threads
        assert admin.xlen("orders") == 2 * len(many) + 1
        found = [OrderPlaced.model_validate_json(f[b"data"]) for f in fields_of(admin, "orders")]
        assert found == [*many, *many, OrderPlaced(order_id=0)]
        names = [UserJoined.model_validate_json(f[b"data"]) for f in fields_of(admin, "users")]
        assert names == [UserJoined(name="a"), UserJoined(name="b")]


async def test_publishing_nothing_does_nothing(events: EventPublisher) -> None:
    assert events.publish_sync() == []
    assert await events.publish() == []


@pytest.mark.parametrize("missing", ["type", "stream"])
async def test_an_event_without_type_or_stream_is_refused_before_anything_is_published(
    events: EventPublisher, admin: sync.Redis, missing: str
) -> None:
    class Nameless(Event, **{"type": "t", "stream": "s"} | {missing: ""}):  # type: ignore[misc]
        pass

    with pytest.raises(RegistrationError, match="Nameless needs a type and a stream"):
        events.publish_sync(OrderPlaced(order_id=1), Nameless())
    with pytest.raises(RegistrationError, match="Nameless"):
        await events.publish(OrderPlaced(order_id=1), Nameless())
    assert admin.dbsize() == 0
    await events.aclose()


async def test_a_batch_that_redis_refuses_is_refused_as_a_whole(
    own_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with EventPublisher(config_for(own_server)) as events:
        events.for_threads.config_set("maxmemory", 1)
        with pytest.raises(sync.RedisError, match=r"(?i)maxmemory|OOM"):
            events.publish_sync(OrderPlaced(order_id=1), OrderPlaced(order_id=2))
        with pytest.raises(sync.RedisError, match=r"(?i)maxmemory|OOM"):
            await events.publish(OrderPlaced(order_id=1))
        events.for_threads.config_set("maxmemory", 0)
        assert events.for_threads.exists("orders") == 0
        own_server.kill()
        with pytest.raises(RedisConnectionError):
            events.publish_sync(OrderPlaced(order_id=1))
        own_server.start()
        assert len(events.publish_sync(OrderPlaced(order_id=1))) == 1


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
    enqueue = scripts.enqueue

    class Again:
        """Asks twice, as redis-py does after a lost connection."""

        async def __call__(self, *args: Any) -> Any:
            await enqueue(*args)
            return await enqueue(*args)

        def run_sync(self, *args: Any) -> Any:
            enqueue.run_sync(*args)
            return enqueue.run_sync(*args)

    monkeypatch.setattr(scripts, "enqueue", Again())
    async with ArqAdapter(WorkerConfig(redis_dsn=SecretStr(server.dsn))) as jobs:
        job = await jobs.enqueue("export")
        assert job
        assert jobs.enqueue_sync("export")
        assert await jobs.enqueue("export", _job_id="given") is None
        assert jobs.enqueue_sync("export", _job_id="given too") is None
