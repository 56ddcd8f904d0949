"""The consumer: it reads each stream its share, idles at little cost, and drains."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    client_of,
    consuming,
    length,
    nothing_pending,
    pending,
    read_as,
    recorder,
    send,
)
from waiting import until
from workerbase.streams import Event, EventContext, EventRouter
from workerbase.streams.publish import publish
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


class Quiet(Event, type="quiet", stream="quiet"):
    number: int


async def test_a_busy_stream_does_not_starve_a_quiet_one(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, order = EventRouter(), list[str]()

    @router.on(Work)
    async def work(event: Work, ctx: EventContext) -> None:
        order.append("busy")
        await asyncio.sleep(0.001)

    @router.on(Quiet)
    async def quiet(event: Quiet, ctx: EventContext) -> None:
        order.append("quiet")

    await send(each, *range(5_000))
    async with consuming(router, config_for(each_server, concurrency=4)) as consumer:
        await until(lambda: len(order) > 500)
        before = len(order)
        await publish(each, *(Quiet(number=n) for n in range(10)))
        await until(lambda: order.count("quiet") == 10)
        # What is read ahead comes first; the backlog does not.
        assert len(order) - before < 2_500
        assert consumer.counts["handled"] < 4_500


async def test_a_stream_of_the_wrong_type_is_named_and_leaves_the_worker_alive(
    redis: RedisClient, server: Server, config_for: ConfigFor, caplog: Any
) -> None:
    router, handled = EventRouter(), list[int]()

    @router.on(Work)
    async def work(event: Work, ctx: EventContext) -> None:
        handled.append(event.number)

    await redis.execute_command("SET", STREAM, "no stream")
    async with consuming(router, config_for(server)):
        await until(lambda: f"group of {STREAM} (ResponseError: WRONGTYPE" in caplog.text)
        await redis.execute_command("DEL", STREAM)
        await send(redis, 1)
        await until(lambda: handled)


async def test_a_worker_that_waits_for_redis_at_its_start_can_be_stopped(
    own_server: Server, config_for: ConfigFor
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def work(event: Work, ctx: EventContext) -> None: ...

    own_server.kill()
    async with asyncio.timeout(10), consuming(router, config_for(own_server)):
        await asyncio.sleep(0.2)


async def commands(redis: RedisClient) -> Counter[str]:
    stats = await redis.execute_command("INFO", "commandstats")
    return Counter({name[8:]: int(stat["calls"]) for name, stat in stats.items()})


async def test_an_idle_consumer_hardly_bothers_redis(server: Server, config_for: ConfigFor) -> None:
    """With the default lease and three streams; whatever a script calls counts as well."""
    router = EventRouter()

    class Third(Event, type="third", stream="third"):
        pass

    for model in (Work, Quiet, Third):

        @router.on(model)
        async def handle(event: Event, ctx: EventContext) -> None: ...

    async with client_of(server) as redis:
        async with consuming(router, config_for(server, lease_timeout=15.0)) as consumer:
            await until(lambda: consumer.reads)
            await asyncio.sleep(2.5)  # the first tidying is over
            before = await commands(redis)
            await asyncio.sleep(6)
            spent = await commands(redis) - before
        spent.subtract(["info"])
        assert sum(spent.values()) / 6 < 4, spent
        assert await pending(redis) == []
        assert await length(redis, STREAM) == 0


async def test_entries_of_a_read_whose_answer_was_lost_come_back_after_a_lease(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with consuming(router, config_for(server, lease_timeout=0.5)) as consumer:
        await until(lambda: consumer.reads)
        await send(redis, 1)
        # Redis delivers it in our name, and the answer goes elsewhere.
        if await read_as(redis, consumer.name) == []:
            await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.is_idle)
    assert len(contexts) == 1
    assert await pending(redis) == []


async def test_what_waits_when_a_worker_stops_runs_elsewhere_while_it_drains(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.leasing.prefetch_queue.AHEAD_S", 60.0)
    router, started, may_end = EventRouter(), list[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.append(event.number)
        if event.number == 0:
            await may_end.wait()

    config = config_for(each_server, concurrency=1, lease_timeout=1.0)
    stopping = asyncio.create_task(_consume_until_set(router, config, may_stop := asyncio.Event()))
    await send(each, *range(5))
    await until(lambda: _count_pending(each, 5))
    may_stop.set()
    await until(lambda: _released(each, 4))
    await asyncio.sleep(0.5)  # two renewals, which must leave them alone
    assert await _released(each, 4)
    assert started == [0]
    async with consuming(router, config) as other:
        await until(lambda: other.counts["handled"] == 4)
        assert not stopping.done()
        may_end.set()
        await stopping
    assert sorted(started) == [0, 1, 2, 3, 4]
    assert await nothing_pending(each)
    assert await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def _consume_until_set(router: EventRouter, config: Config, stop: asyncio.Event) -> None:
    async with consuming(router, config):
        await stop.wait()


async def _count_pending(redis: RedisClient, count: int) -> bool:
    try:
        return len(await pending(redis)) == count
    except ResponseError:  # no group yet
        return False


async def _released(redis: RedisClient, count: int) -> bool:
    rows = await pending(redis)
    free = [
        row for row in rows if row["times_delivered"] == 0 and row["time_since_delivered"] > 60_000
    ]
    return len(free) == count
