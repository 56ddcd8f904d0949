"""The service `Streams`: what it declares, and one run of it."""

import asyncio
from collections.abc import Callable

import pytest
from streamkit import (
    STREAM,
    Work,
    consuming,
    failing,
    nothing_pending,
    run_jobs,
    send,
    serving,
    started,
)
from waiting import until
from workerbase import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.engine.vitals import Vitals
from workerbase.errors import SettingsError
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


class Follow(Event, type="follow", stream="follow-ups"):
    number: int


def test_its_sources_are_the_streams_that_have_handlers() -> None:
    router, _ = failing(None)
    (source,) = Streams(router).sources(Config())
    assert (source.name, source.kind, source.names, source.parks) == (
        STREAM, "stream", ("work",), True,
    )  # fmt: skip
    assert source.knows("work")
    assert not source.knows("other")
    assert Streams(EventRouter()).sources(Config()) == []


def test_it_needs_the_settings_of_streams() -> None:
    with pytest.raises(SettingsError, match="'streams' needs settings of StreamsConfig"):

        class Settings(BaseArqWorkerSettings):
            config = WorkerConfig()
            services = (Streams(EventRouter()),)


async def test_it_serves_until_it_is_stopped(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(None)
    async with serving(router, config_for(server)) as service:
        await send(redis, 1)
        await until(lambda: contexts)
        vitals = service.vitals()
        assert (vitals.name, vitals.note, vitals.overdue) == ("consumer", "", None)
        assert vitals.last_pass is not None
    assert await nothing_pending(redis)


async def test_a_router_without_handlers_only_waits(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    async with serving(EventRouter(), config_for(server)) as service:
        assert service.vitals() == Vitals("streams")
        assert await service.run_pending() == 0
        assert await service.status(redis, config_for(server)) == []
    assert await redis.execute_command("DBSIZE") == 0


async def test_a_handler_that_never_returns_is_reported_as_overdue(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, started_at, end = EventRouter(), list[float](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started_at.append(asyncio.get_running_loop().time())
        await end.wait()

    async with serving(router, config_for(server, handler_timeout=30)) as service:
        (entry_id,) = await send(redis, 1)
        await until(lambda: started_at)
        vitals = service.vitals()
        assert vitals.overdue == f"{STREAM} {entry_id}"
        assert vitals.overdue_at == pytest.approx(started_at[0] + 30, abs=5)
        end.set()


async def test_pending_work_is_handled_with_all_that_it_publishes(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, followed = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "bad" and ctx.attempt == 1:
            raise ValueError("bad")
        await ctx.publish(Follow(number=event.number))

    @router.on(Follow)
    async def follow(event: Follow, ctx: EventContext) -> None:
        followed.append(event.number)

    config = config_for(each_server)
    async with started(router, config) as service:
        assert await service.run_pending() == 0
        await send(each, 1, 2)
        await send(each, 3, kind="bad")
        assert await service.run_pending() == 5
        assert await run_jobs(each, config) == 1
        assert await service.run_pending() == 2
        assert await service.run_pending() == 0
    assert sorted(followed) == [1, 2, 3]
    assert await nothing_pending(each)


async def test_its_status_has_one_entry_for_each_stream(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _ = failing(None)

    @router.on(Follow)
    async def follow(event: Follow, ctx: EventContext) -> None: ...

    config = config_for(server, consumer_group="readers")
    async with consuming(router, config) as consumer:
        await until(lambda: consumer.reads)
        work, follow_ups = await Streams(router).status(redis, config)
    assert (work.name, work.kind, work.consumers) == (STREAM, "stream", 1)
    assert (follow_ups.name, follow_ups.waiting, follow_ups.in_work) == ("follow-ups", 0, 0)
