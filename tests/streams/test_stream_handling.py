"""How handlers run: so many, so long, from every stream its share; and what idling costs."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from streamkit import (
    STREAM,
    Work,
    client_of,
    consuming,
    length,
    pending,
    run_jobs,
    send,
)
from waiting import until
from workerbase.config import WorkerConfig
from workerbase.delivery.streams import publish
from workerbase.devtools.server import Server
from workerbase.events import Event, EventContext, EventRouter
from workerbase.monitor import Monitor, Monitors
from workerbase.types import RedisClient

ConfigFor = Callable[..., WorkerConfig]


async def test_no_more_handlers_run_than_the_limit_allows(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    running = most = 0
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    async with consuming(router, config_for(server, concurrency=7)) as consumer:
        await send(redis, *range(70))
        await until(lambda: consumer.counts["handled"] == 70)
    assert most == 7


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_tried_again(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, ended = EventRouter(), list[str]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        try:
            await asyncio.sleep(0.0 if ctx.attempt > 1 else 30)
        finally:
            ended.append("cleaned up")

    errors: list[BaseException | None] = []

    class Errors(Monitor):
        def ended(self, work: Any, outcome: Any, error: Any, seconds: float) -> None:
            errors.append(error)

    config = config_for(each_server, handler_timeout=0.2, concurrency=1)
    async with consuming(router, config, monitors=Monitors([Errors()])) as consumer:
        await send(each, 1, 2)
        await until(lambda: consumer.counts["retried"] == 2)
        await run_jobs(each, config)
        await until(lambda: consumer.counts["handled"] == 2)
    assert len(ended) == 4
    assert [type(error) for error in errors[:2]] == [TimeoutError, TimeoutError]


async def test_a_handler_that_will_not_be_cancelled_in_time_ends_by_its_own_outcome(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if event.kind == "stubborn":
                return
            raise ValueError("cancelled while it mattered") from None

    config = config_for(server, handler_timeout=0.1, concurrency=1)
    async with consuming(router, config) as consumer:
        await send(redis, 1, kind="stubborn")
        await send(redis, 2)
        await until(lambda: consumer.counts["handled"] and consumer.counts["retried"])
        await send(redis, 3, kind="stubborn")  # the slot is as good as new
        await until(lambda: consumer.counts["handled"] == 2)


class Quiet(Event, type="quiet", stream="quiet"):
    number: int


class Panic(BaseException):
    """As extensions in other languages raise it."""


async def test_a_handler_cannot_end_the_worker_whatever_it_raises(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.number == 0:
            raise Panic

    async with consuming(router, config_for(server, max_retries=1)) as consumer:
        await send(redis, 0, 1)
        await until(lambda: consumer.counts["dead_lettered"] == 1)
        await until(lambda: consumer.counts["handled"] == 1)


async def test_a_type_that_is_no_text_is_parked_and_harms_nobody(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    async with consuming(router, config_for(server)) as consumer:
        await redis.execute_command("XADD", STREAM, "*", b"type", b"\xff", b"data", b"x")
        await until(lambda: consumer.counts["parked"] == 1)
        assert await consumer._janitor.unpark(STREAM) == 1
        assert await length(redis, f"{STREAM}:parked") == 1
        await send(redis, 1)
        await until(lambda: consumer.counts["handled"] == 1)


async def test_a_handler_that_ignores_its_cancellation_does_not_hang_the_stop(
    redis: RedisClient, server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    router, began, end = EventRouter(), asyncio.Event(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        began.set()
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    async with consuming(router, config_for(server, drain_timeout=0.1, concurrency=2)) as consumer:
        await send(redis, 1)
        await began.wait()
    end.set()  # or the test would not end either
    assert "ignores its cancellation and is left behind" in caplog.text
    (entry,) = await pending(redis)
    assert entry["time_since_delivered"] < 86_400_000, "it was not handed back, for it runs"
    slots = [slot.task for slot in consumer._handling.slots if slot.task]
    for task in slots:
        task.cancel()
    await asyncio.wait(slots)


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


async def test_a_stream_of_the_wrong_type_is_told_by_name_and_leaves_the_worker_alive(
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
