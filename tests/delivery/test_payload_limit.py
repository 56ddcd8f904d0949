"""WORKER_MAX_PAYLOAD: larger jobs and events are refused where they are sent."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
from arq.connections import ArqRedis
from arq.worker import func
from workerbase import BaseArqWorkerSettings, Ctx
from workerbase.base import BaseArqService
from workerbase.config import WorkerConfig
from workerbase.delivery import ArqAdapter
from workerbase.errors import ConfigError, PayloadError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.jobs import LeasedJobs
from workerbase.process.service import Service
from workerbase.streams import (
    Event,
    EventContext,
    EventPublisher,
    EventRouter,
    Streams,
    publish,
    publish_fields,
)
from workerbase.task_utils import task
from workerbase.testing import Server, WorkerKit
from workerbase.types import RedisClient
from workerconfig import Config

LIMIT = 200
TOO_MUCH = r"has [\d,]+ bytes, and WORKER_MAX_PAYLOAD allows 200; store large data elsewhere"


class Photo(Event, type="photo.taken", stream="photos"):
    pixels: str


SMALL, LARGE = Photo(pixels="x"), Photo(pixels="x" * LIMIT)


@pytest.fixture
def config(server: Server, config_for: Callable[..., WorkerConfig]) -> WorkerConfig:
    return config_for(server, max_payload=LIMIT)


@pytest.fixture
async def jobs(config: WorkerConfig) -> AsyncIterator[ArqAdapter]:
    async with ArqAdapter(config) as adapter:
        yield adapter


@pytest.fixture
async def events(config: WorkerConfig) -> AsyncIterator[EventPublisher]:
    async with EventPublisher(config) as publisher:
        yield publisher


async def keys_in(redis: ArqRedis) -> set[bytes]:
    return set(await redis.keys("*"))


async def test_a_large_job_is_refused_by_every_client(
    config: WorkerConfig, jobs: ArqAdapter, redis: ArqRedis
) -> None:
    async def inside_a_worker() -> object:
        async with BaseArqService(config) as service:
            return await service.enqueue_job("resize", "x" * LIMIT)

    async def by_the_adapter() -> object:
        return await jobs.enqueue("resize", "x" * LIMIT)

    async def by_the_adapter_without_a_loop() -> object:
        return jobs.enqueue_sync("resize", "x" * LIMIT)

    each: tuple[Callable[[], Awaitable[object]], ...] = (
        inside_a_worker, by_the_adapter, by_the_adapter_without_a_loop,
    )  # fmt: skip
    for enqueue in each:
        with pytest.raises(PayloadError, match=f"job resize {TOO_MUCH}"):
            await enqueue()
    assert await keys_in(redis) == set()

    assert await jobs.enqueue("resize", "x")
    assert jobs.enqueue_sync("resize", "x")
    assert len(await redis.zrange("arq:queue", 0, -1)) == 2


async def test_a_large_event_is_refused_and_so_are_those_beside_it(
    events: EventPublisher, redis: ArqRedis
) -> None:
    with pytest.raises(PayloadError, match=rf"event photo\.taken {TOO_MUCH}"):
        await events.publish(SMALL, LARGE)
    with pytest.raises(PayloadError, match=TOO_MUCH):
        events.publish_sync(SMALL, LARGE)
    with pytest.raises(PayloadError, match=TOO_MUCH):
        await publish(cast("RedisClient", redis), LARGE, max_payload_bytes=LIMIT)
    assert await keys_in(redis) == set()

    await events.publish(SMALL)
    events.publish_sync(SMALL)
    assert await redis.xlen("photos") == 2


async def test_a_payload_of_exactly_the_limit_is_accepted(
    server: Server, config_for: Callable[..., WorkerConfig], redis: ArqRedis
) -> None:
    await publish(cast("RedisClient", redis), SMALL)
    ((_, fields),) = await redis.xrange("photos")
    size = sum(len(name) + len(value) for name, value in fields.items())

    async with EventPublisher(config_for(server, max_payload=size)) as events:
        await events.publish(SMALL)
        with pytest.raises(PayloadError, match=f"has {size + 1} bytes"):
            await events.publish(Photo(pixels="xx"))
    assert await redis.xlen("photos") == 2


async def test_events_of_other_senders_are_handled_whatever_their_size(tmp_path: Path) -> None:
    sizes: list[int] = []
    refused: list[str] = []
    photos = EventRouter()

    @photos.on(Photo)
    async def on_photo(event: Photo, ctx: EventContext) -> None:
        sizes.append(len(event.pixels))
        if ctx.attempt == 1:
            try:
                await ctx.publish(LARGE)
            except PayloadError as exc:
                refused.append(str(exc))
            raise ValueError("first")

    class Settings(BaseArqWorkerSettings):
        config = Config(max_payload=LIMIT)
        services = (Streams(photos),)

    async with WorkerKit(Settings, str(tmp_path / "healthy")) as kit:
        fields = {"type": "photo.taken", "data": LARGE.model_dump_json()}
        await publish_fields(kit.redis, "photos", fields)
        run = await kit.run()

    # Its retry job is larger than the limit, too.
    assert run.retried == run.handled == ["photo.taken"]
    assert sizes == [LIMIT, LIMIT]
    assert [re.search(TOO_MUCH, text) is not None for text in refused] == [True]


@pytest.mark.parametrize("leased", [True, False], ids=["leased", "arq"])
async def test_a_large_job_of_another_sender_is_retried_dead_lettered_and_replayed(
    tmp_path: Path, leased: bool
) -> None:
    ran: list[int] = []

    async def resize(ctx: Ctx, pixels: str) -> None:
        ran.append(len(pixels))
        if len(ran) <= 2:
            raise ValueError("no")

    retried = task()(resize)
    retried.name = "resize"

    class Settings(BaseArqWorkerSettings):
        config = Config(max_payload=LIMIT, max_retries=2, retry_backoff=0)
        functions = (func(resize, name="resize"),) if leased else (retried,)
        services: tuple[Service, ...] = (LeasedJobs(),) if leased else ()

    async with WorkerKit(Settings, str(tmp_path / "healthy")) as kit:
        with pytest.raises(PayloadError, match=TOO_MUCH):
            await kit.enqueue("resize", "x" * LIMIT)
        kit.worker.client.max_payload_bytes = 10 * LIMIT  # as another client has it
        assert await kit.enqueue("resize", "x" * LIMIT)
        kit.worker.client.max_payload_bytes = LIMIT
        await kit.run()
        (dead,) = await kit.dead_letters("arq:queue")
        assert (dead.error, ran) == ("ValueError: no", [LIMIT, LIMIT])

        dlq = DeadLetterQueue.of_source(kit.redis, "arq:queue")
        assert await dlq.replay(dead, 3) == "replayed"
        await kit.run()
    assert ran == [LIMIT] * 3


def test_the_limit_must_be_a_positive_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_MAX_PAYLOAD", "0")
    with pytest.raises(ConfigError, match="WORKER_MAX_PAYLOAD"):
        WorkerConfig.load()
