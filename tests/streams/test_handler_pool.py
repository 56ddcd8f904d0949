"""The handler pool: how many handlers run, for how long, and what they may raise."""

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from streamkit import (
    STREAM,
    Work,
    consuming,
    length,
    pending,
    run_jobs,
    send,
)
from waiting import until
from workerbase.monitor import Monitor, Monitors
from workerbase.streams import EventContext, EventRouter
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_no_more_handlers_run_than_the_limit_allows(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    running = highest = 0
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.02)
        running -= 1

    async with consuming(router, config_for(server, concurrency=7)) as consumer:
        await send(redis, *range(70))
        await until(lambda: consumer.counts["handled"] == 70)
    assert highest == 7


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_is_retried(
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
        def on_finished(self, work: Any, outcome: Any, error: Any, seconds: float) -> None:
            errors.append(error)

    config = config_for(each_server, handler_timeout=0.2, concurrency=1)
    async with consuming(router, config, monitors=Monitors([Errors()])) as consumer:
        await send(each, 1, 2)
        await until(lambda: consumer.counts["retried"] == 2)
        await run_jobs(each, config)
        await until(lambda: consumer.counts["handled"] == 2)
    assert len(ended) == 4
    for error in errors[:2]:
        assert isinstance(error, TimeoutError)
        assert str(error) == "handler took longer than 0.2 s (WORKER_HANDLER_TIMEOUT)"
        assert "await asyncio.sleep(0.0 if" in "".join(traceback.format_exception(error))


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


async def test_a_type_that_is_not_text_is_parked_and_harms_nobody(
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
    assert "ignored cancellation; continuing without it" in caplog.text
    (entry,) = await pending(redis)
    assert entry["time_since_delivered"] < 86_400_000, "it was not released, for it runs"
    slots = [slot.task for slot in consumer._pool.slots if slot.task]
    for task in slots:
        task.cancel()
    await asyncio.wait(slots)
