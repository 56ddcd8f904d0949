"""Scheduling from inside a job, and typed access to ctx."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import JobStatus
from workerbase import WorkerConfig, task
from workerbase.broker import codec
from workerbase.errors import WorkerError
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.task_utils import (
    JobInfo,
    enqueue,
    enqueue_at,
    enqueue_in,
    enqueue_once,
    get,
    get_config,
    get_redis,
    get_state,
    job_info,
)
from workerbase.types import Ctx


@task(max_retries=3)
async def careful(ctx: Ctx) -> None: ...


async def test_a_call_of_a_task_can_be_enqueued_by_name_and_by_either_client(ctx: Ctx) -> None:
    call = careful.job()
    assert (call.function, call.args, call.kwargs) == ("careful", (), {})
    job = await enqueue_once(ctx, "1", call)
    assert job is not None
    assert (await plain(ctx).enqueue_job("other")) is not None
    ctx["redis"] = plain(ctx)
    assert await enqueue_once(ctx, "1", call) is None
    other = await enqueue(ctx, careful.job(), _job_id="2")
    assert other is not None
    info = await other.info()
    assert info is not None
    assert (info.function, info.args, info.kwargs) == ("careful", [], {})


# --- scheduling


def plain(ctx: Ctx) -> ArqRedis:
    """Return plain arq's client of the same server."""
    client = get_redis(ctx)
    return ArqRedis(
        client.connection_pool, job_serializer=codec.dumps, job_deserializer=codec.loads
    )


@pytest.fixture
def ctx(redis: ArqRedis) -> Ctx:
    return {"redis": redis, "job_id": "j"}


async def test_enqueue_in_defers_by_seconds_or_a_timedelta(ctx: Ctx, redis: ArqRedis) -> None:
    for delay in (60, timedelta(minutes=1)):
        job = await enqueue_in(ctx, delay, "work", 1, key="x")
        assert job is not None
        info = await job.info()
        assert info is not None
        assert (info.function, info.args, info.kwargs) == ("work", [1], {"key": "x"})
        assert info.score is not None
        assert 59_000 <= info.score - info.enqueue_time.timestamp() * 1000 <= 61_000
        assert await job.status() == JobStatus.deferred


async def test_enqueue_at_defers_until_a_moment_with_a_time_zone(ctx: Ctx) -> None:
    when = datetime(2040, 1, 1, tzinfo=UTC)
    job = await enqueue_at(ctx, when, "work", 1)
    assert job is not None
    info = await job.info()
    assert info is not None
    assert info.score == when.timestamp() * 1000
    with pytest.raises(ValueError, match="has no time zone"):
        await enqueue_at(ctx, datetime(2040, 1, 1), "work")  # noqa: DTZ001


async def test_enqueue_once_enqueues_one_job_for_each_task_and_key(ctx: Ctx) -> None:
    assert await enqueue_once(ctx, "7", "work", 1) is not None
    assert await enqueue_once(ctx, "7", "work", 2) is None
    assert await enqueue_once(ctx, "8", "work", 1) is not None
    assert await enqueue_once(ctx, "7", "other", 1) is not None
    many = await asyncio.gather(*(enqueue_once(ctx, "9", "work", n) for n in range(20)))
    assert sum(job is not None for job in many) == 1


async def test_a_job_id_of_ones_own_is_unique_with_deferral_too(ctx: Ctx) -> None:
    assert await enqueue_in(ctx, 60, "work", _job_id="same") is not None
    assert await enqueue_in(ctx, 60, "work", _job_id="same") is None
    when = datetime(2040, 1, 1, tzinfo=UTC)
    assert await enqueue_at(ctx, when, "work", _job_id="same") is None


# --- ctx


def test_ctx_is_read_with_types(redis: ArqRedis) -> None:
    config = WorkerConfig()
    worker = WorkerContext(settings=ResolvedSettings(config=config))
    ctx: Ctx = {"redis": redis, "worker": worker, "n": 3}
    assert get_redis(ctx) is redis
    assert get_config(ctx) is config
    assert get(ctx, "n", int) == 3
    with pytest.raises(WorkerError, match=r"ctx\['n'\] should be str but is int"):
        get(ctx, "n", str)
    with pytest.raises(
        WorkerError, match=r"ctx\['m'\] should be str but is missing among \['n', 'red"
    ):
        get(ctx, "m", str)
    with pytest.raises(WorkerError, match="should be ArqRedis"):
        get_redis({"redis": None})
    with pytest.raises(
        WorkerError, match=r"ctx\['worker'\] should be WorkerContext but is missing"
    ):
        get_config({})


def test_the_state_is_what_the_lifespan_yielded() -> None:
    class Shop: ...

    shop = Shop()
    assert get_state({"state": shop}, Shop) is shop
    with pytest.raises(WorkerError, match=r"ctx\['state'\] should be Shop but is missing"):
        get_state({}, Shop)
    with pytest.raises(WorkerError, match=r"ctx\['state'\] should be str but is Shop"):
        get_state({"state": shop}, str)


@dataclass
class OfHandler:
    """The part of a handler's ``ctx`` that matters here."""

    worker: WorkerContext


def test_a_handler_reads_state_and_configuration_with_types_as_a_task_does() -> None:
    class Own(WorkerConfig):
        shop: str = "here"

    worker = WorkerContext(settings=ResolvedSettings(config=Own()), state=["open"])
    ctx: Ctx = {"worker": worker, "state": worker.state}
    for given in (ctx, OfHandler(worker)):
        assert get_state(given, list) == ["open"]
        assert get_config(given, Own).shop == "here"
        assert get_config(given) is worker.config
        with pytest.raises(WorkerError, match=r"ctx\['state'\] should be str but is list"):
            get_state(given, str)

    plain = OfHandler(WorkerContext(settings=ResolvedSettings(config=WorkerConfig())))
    with pytest.raises(WorkerError, match=r"ctx\['config'\] should be Own but is W"):
        get_config(plain, Own)


def test_job_info_describes_the_job_or_none() -> None:
    now = datetime.now(UTC)
    ctx: dict[str, Any] = {"job_id": "j", "job_try": 3, "enqueue_time": now}
    assert job_info(ctx) == JobInfo("j", 3, now)
    assert job_info({}) == JobInfo("", 1, None)
