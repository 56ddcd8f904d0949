"""Our client enqueues what arq's does, in one round trip, and wakes idle workers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from waiting import until
from workerbase import Ctx, task
from workerbase.broker import codec, keys
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.enqueue import NewJob, QueueClient
from workerbase.errors import PayloadError
from workerbase.testing import Server

QUEUE = keys.DEFAULT_QUEUE


@task()
async def send(ctx: Ctx, number: int, *, colour: str = "red") -> None: ...


@pytest.fixture
async def queue(each_server: Server) -> AsyncIterator[QueueClient]:
    client = connect(RedisDsn.parse(each_server.dsn))
    yield client
    await client.aclose(close_connection_pool=True)


def plain(client: QueueClient) -> ArqRedis:
    """Return arq's own client of the same server."""
    return ArqRedis(
        client.connection_pool, job_serializer=codec.dumps, job_deserializer=codec.loads
    )


def to_five(seconds: float) -> int:
    """Round to five seconds: Redis reads its clock a little later than a client."""
    return round(seconds / 5) * 5


async def stored(client: QueueClient, job: Job, queue: str) -> dict[str, Any]:
    """What Redis holds of a job, without its id and the moment at which it was enqueued."""
    body = codec.loads(await client.get(f"arq:job:{job.job_id}"))
    enqueued = body.pop("et")
    assert isinstance(enqueued, int)
    score = await client.zscore(queue, job.job_id)
    assert score is not None
    return {
        "body": body,
        "waits_s": to_five((score - enqueued) / 1000),
        "expires_s": to_five(await client.pttl(f"arq:job:{job.job_id}") / 1000),
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"_queue_name": "mail"},
        {"_defer_by": 60},
        {"_defer_by": timedelta(minutes=2)},
        {"_defer_until": datetime(2040, 1, 1, tzinfo=UTC)},
        {"_expires": 30},
        {"_expires": timedelta(minutes=2), "_defer_by": 5},
        {"_job_try": 3},
    ],
    ids=str,
)
async def test_it_writes_what_arqs_own_client_writes(
    queue: QueueClient, options: dict[str, Any]
) -> None:
    name = options.get("_queue_name", QUEUE)
    ours = await queue.enqueue_job("send", 1, "two", key=b"x", **options)
    arqs = await plain(queue).enqueue_job("send", 1, "two", key=b"x", **options)
    assert ours is not None
    assert arqs is not None
    if "_defer_until" in options:  # in milliseconds of another moment
        assert await queue.zscore(name, ours.job_id) == await queue.zscore(name, arqs.job_id)
    else:
        assert await stored(queue, ours, name) == await stored(queue, arqs, name)


async def test_a_call_is_enqueued_with_its_arguments(queue: QueueClient) -> None:
    job = await queue.enqueue_job(send.job(7, colour="blue"), _job_id="j1")
    assert job is not None
    info = await job.info()
    assert info is not None
    assert (info.function, info.args, info.kwargs) == ("send", [7], {"colour": "blue"})


@pytest.mark.parametrize("taken", ["arq:job:j1", "arq:result:j1", "arq:in-progress:j1"])
async def test_an_id_is_taken_while_the_job_waits_runs_or_has_a_result(
    queue: QueueClient, taken: str
) -> None:
    await queue.set(taken, "x")
    await queue.zadd(queue.default_queue_name, {"j1": 1})
    assert await queue.enqueue_job("send", 1, _job_id="j1") is None
    await queue.delete(taken)
    assert await queue.enqueue_job("send", 1, _job_id="j1") is not None


async def test_of_many_with_one_id_one_is_enqueued(queue: QueueClient) -> None:
    jobs = await asyncio.gather(
        *(queue.enqueue_job("send", number, _job_id="j1") for number in range(20))
    )
    assert sum(job is not None for job in jobs) == 1


async def test_a_request_to_abort_a_former_job_does_not_concern_a_new_one(
    queue: QueueClient,
) -> None:
    await queue.zadd("arq:abort", {"j1": 1})
    await queue.enqueue_job("send", 1, _job_id="j1")
    assert await queue.zcard("arq:abort") == 0


async def test_two_times_and_large_jobs_are_refused_before_redis_is_asked(
    queue: QueueClient,
) -> None:
    with pytest.raises(RuntimeError, match="not both"):
        await queue.enqueue_job("send", _defer_by=1, _defer_until=datetime.now(UTC))
    queue.max_payload_bytes = 100
    with pytest.raises(PayloadError, match="job send has"):
        await queue.enqueue_job("send", "x" * 100)
    assert await queue.dbsize() == 0


async def test_it_takes_one_round_trip(queue: QueueClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await queue.enqueue_job("send", 1)  # the script is known from now on
    execute, commands = queue.execute_command, list[str]()

    async def recording(*args: Any, **options: Any) -> Any:
        commands.append(args[0])
        return await execute(*args, **options)

    monkeypatch.setattr(queue, "execute_command", recording)
    assert await queue.enqueue_job("send", 2) is not None
    assert commands == ["EVALSHA"]


@pytest.mark.parametrize("options", [{}, {"_defer_by": 60}])
async def test_idle_workers_are_woken_where_the_job_is_the_next(
    queue: QueueClient, options: dict[str, Any]
) -> None:
    heard: list[bytes] = []
    pubsub = queue.pubsub()
    await pubsub.subscribe(f"{QUEUE}:wake")
    await pubsub.get_message(timeout=5)

    async def listen() -> bool:
        message = await pubsub.get_message(timeout=0.05)
        if message:
            heard.append(message["data"])
        return bool(heard)

    await queue.enqueue_job("send", 1, _job_id="j1", **options)
    await until(listen, 5)
    assert heard == [b"j1"]
    # One that is due later than another which waits concerns nobody yet.
    await queue.enqueue_job("send", 1, _job_id="j2", _defer_by=120)
    for _ in range(5):
        await listen()
    assert heard == [b"j1"]
    await pubsub.aclose()


def test_a_new_job_knows_when_it_is_due_and_who_chose_its_id() -> None:
    def create(**options: Any) -> NewJob:
        return NewJob.create("send", _max_payload_bytes=1_000, _queue_name="mail", **options)

    assert (create().due, create().named, create().queue) == ("+0", False, "mail")
    assert create(_defer_by=5).due == "+5000"
    assert create(_defer_until=datetime(2020, 1, 1, tzinfo=UTC)).due == "1577836800000"
    assert create(_defer_by=5, _expires=7).expires == "7000"
    assert (create(_job_id="x").named, create(_job_id="x").job_id) == (True, "x")
    assert create().job_id != create().job_id
