"""The breaker: when everything fails, no message is blamed and work resumes by itself."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from streamkit import (
    STREAM,
    Work,
    consuming,
    expire_leases,
    failing,
    length,
    make_group,
    nothing_pending,
    pending,
    read_as,
    run_jobs,
    send,
)
from waiting import until
from workerbase.errors import PermanentError
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.breaker import Breaker
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_when_enough_different_messages_failed() -> None:
    breaker = Breaker(3, clock=Clock())
    assert [breaker.failed(message) for message in ("a", "a", "b", "a")] == [False] * 4
    assert breaker.failed("c")
    assert breaker.is_open


def test_one_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(2, clock=Clock())
    breaker.failed("a")
    assert not breaker.succeeded()
    assert not breaker.failed("b")
    assert not breaker.is_open


def test_trials_follow_in_growing_pauses_until_one_succeeds() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    breaker.failed("a")
    granted: list[float] = []
    for _ in range(1_000):
        if breaker.may_try():
            granted.append(clock.now - 100.0)
            breaker.failed("a")
        clock.now += 0.25
    pauses = [later - sooner for sooner, later in pairwise(granted)]
    assert granted[0] == 1.0
    assert pauses[:6] == [2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
    assert breaker.succeeded()
    assert not breaker.may_try()
    breaker.failed("b")
    clock.now += 1.0
    assert breaker.may_try()


def test_what_was_running_when_the_breaker_opened_does_not_delay_the_first_trial() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    for message in "abcdefghijklmnopqrst":
        breaker.failed(message)
    clock.now += 1.0
    assert breaker.may_try()


def test_failures_of_an_open_breaker_neither_open_it_again_nor_delay_its_trial() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    assert not breaker.may_try(), "nothing is wrong"
    assert breaker.failed("a")
    clock.now += 0.5
    assert not breaker.failed("b")
    clock.now += 0.5
    assert breaker.may_try()


# --- in a consumer


async def test_when_everything_fails_nothing_is_dead_lettered_and_work_resumes_by_itself(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, down, done = EventRouter(), True, set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("the database is away")
        done.add(event.number)

    config = config_for(each_server, breaker_threshold=5, concurrency=4, max_retries=2)
    async with consuming(router, config) as consumer:
        await send(each, *range(30))
        await until(lambda: consumer.counts["held"])
        # More often than any message is attempted: retries come back and fail, too.
        for _ in range(20):
            await run_jobs(each, config)
            await asyncio.sleep(0.02)
        assert consumer.counts["dead_lettered"] == 0
        assert consumer.counts["retried"] <= 8
        down = False
        await until(lambda: consumer.counts["handled"] + consumer.counts["retried"] >= 30)
        await run_jobs(each, config)
        await until(lambda: len(done) == 30)
        await until(lambda: consumer.is_idle)
    assert await length(each, f"{STREAM}:dlq") == 0
    assert await nothing_pending(each)


@pytest.mark.parametrize("prefetch", [0, 500])
async def test_good_messages_behind_a_queue_of_bad_ones_are_handled(
    redis: RedisClient,
    server: Server,
    config_for: ConfigFor,
    monkeypatch: pytest.MonkeyPatch,
    prefetch: int,
) -> None:
    """The bad ones wait in the worker, and each trial takes one: it must meet a good one, too."""
    monkeypatch.setattr("workerbase.streams.breaker.MAX_PAUSE_S", 0.2)
    router, done = EventRouter(), set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "bad":
            await asyncio.sleep(0.05)
            raise ValueError(event.number)
        done.add(event.number)

    config = config_for(server, concurrency=4, prefetch=prefetch, breaker_threshold=4)
    async with consuming(router, config) as consumer:
        await send(redis, *range(20), kind="bad")
        await until(lambda: consumer.counts["held"] > 4)
        await send(redis, *range(100, 120))
        await until(lambda: len(done) == 20)


async def test_messages_that_can_never_succeed_do_not_open_the_breaker(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _ = failing(PermanentError("bad"))
    config = config_for(server, breaker_threshold=2)
    async with consuming(router, config) as consumer:
        await send(redis, *range(10))
        await until(lambda: consumer.counts["dead_lettered"] == 10)
    assert consumer.counts["held"] == 0


async def test_an_open_breaker_reclaims_nothing(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _contexts = failing(ConnectionError("away"))
    await make_group(redis)
    (abandoned,) = await send(redis, 1)
    await read_as(redis, "dead")
    config = config_for(server, breaker_threshold=1, lease_timeout=0.5)
    async with consuming(router, config) as consumer:
        await send(redis, 2)
        await until(lambda: consumer.counts["held"])
        await expire_leases(redis)
        await asyncio.sleep(0.5)
        owners = {row["message_id"].decode(): row["consumer"] for row in await pending(redis)}
        assert owners[abandoned] == b"dead"


async def test_a_breaker_that_opens_in_the_middle_of_a_recovery_doubles_and_condemns_nothing(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    down, done = True, list[int]()

    def router() -> EventRouter:
        made = EventRouter()

        @made.on(Work)
        async def handle(event: Work, ctx: EventContext) -> None:
            if down:
                raise ConnectionError("the database is away")
            done.append(event.number)

        return made

    await make_group(redis)
    await send(redis, *range(10))
    await read_as(redis, "dead")
    await expire_leases(redis)
    config = config_for(server, breaker_threshold=3, lease_timeout=0.5)
    async with consuming(router(), config) as first:
        await until(lambda: first.counts["held"])
        await asyncio.sleep(2 * config.lease_timeout)
        counted = [row["times_delivered"] for row in await pending(redis)]
        assert sorted(counted) == [1] * 7 + [2]
        async with consuming(router(), config) as second:
            await asyncio.sleep(2 * config.lease_timeout)
            down = False

            async def all_done() -> bool:
                await run_jobs(redis, config)
                return len(done) >= 10

            await until(all_done)
            await until(lambda: first.is_idle and second.is_idle)
    assert sorted(done) == list(range(10))
    assert await length(redis, f"{STREAM}:dlq") == 0
