"""Whether Redis is available, what is logged of an outage, and how long to wait."""

import asyncio
import logging
from typing import Any

import pytest
from fake_redis import FakeRedis
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase.broker import availability as module
from workerbase.broker.availability import (
    LOG_EVERY_S,
    MAX_DELAY_S,
    REFUSED_S,
    RedisAvailability,
)
from workerbase.monitor import Monitor, Monitors


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def turn(count: int = 5) -> None:
    """Let the other tasks run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_redis_counts_as_unavailable_until_it_answers() -> None:
    clock = Clock()
    availability = RedisAvailability(clock)
    assert not availability.up
    availability.record_success()
    assert availability.up
    availability.record_failure(RedisConnectionError("gone"), "reading")
    assert not availability.up
    availability.record_success()
    assert availability.up


@pytest.mark.parametrize("error", [ReadOnlyError("READONLY"), OutOfMemoryError("OOM")])
def test_a_refusal_counts_although_other_commands_are_answered(error: Exception) -> None:
    clock = Clock()
    availability = RedisAvailability(clock)
    availability.record_success()
    for _ in range(5):
        availability.record_failure(error, "settling")
        availability.record_success()
        assert not availability.up
        clock.now += MAX_DELAY_S
    clock.now += REFUSED_S
    availability.record_success()
    assert availability.up


def test_the_wait_grows_to_a_second_and_starts_again_after_a_success() -> None:
    availability = RedisAvailability(Clock())
    error = RedisConnectionError("gone")
    waits = [availability.record_failure(error, "reading") for _ in range(9)]
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert waits[-1] == MAX_DELAY_S
    availability.record_success()
    assert availability.record_failure(error, "reading") == 0.05


def test_one_line_is_logged_for_an_outage_and_one_at_its_end(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    availability = RedisAvailability(clock)
    for _ in range(50):
        availability.record_failure(RedisConnectionError("gone"), "reading")
    assert len(caplog.records) == 1
    clock.now += LOG_EVERY_S
    availability.record_failure(RedisConnectionError("gone"), "reading")
    assert len(caplog.records) == 2
    availability.record_success()
    assert caplog.records[-1].message == "Redis is back after 10.0 s"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (TimeoutError(), "(TimeoutError: no answer in time); nothing is lost, trying again; is "),
        (RedisConnectionError("refused"), "trying again; is WORKER_REDIS_DSN right?"),
        (AuthenticationError("WRONGPASS"), "the login in WORKER_REDIS_DSN is refused"),
        (OutOfMemoryError("OOM"), "Redis is full: make room"),
        (ReadOnlyError("READONLY"), "WORKER_REDIS_DSN must lead to the primary"),
    ],
)
def test_a_failure_is_logged_with_a_hint(caplog: Any, error: Exception, hint: str) -> None:
    RedisAvailability(Clock()).record_failure(error, "reading")
    assert hint in caplog.text


def test_a_redis_that_has_answered_is_at_the_right_address(caplog: Any) -> None:
    clock = Clock()
    clock.now = 1.0
    availability = RedisAvailability(clock)
    availability.record_success()
    availability.record_failure(RedisConnectionError("gone"), "reading")
    assert caplog.messages == [
        "Redis failed while reading (ConnectionError: gone); nothing is lost, trying again"
    ]
    clock.now += LOG_EVERY_S
    availability.record_failure(RedisConnectionError("gone"), "reading")
    assert caplog.messages[-1].endswith("trying again, for 10 s now")


def test_each_change_is_reported_once() -> None:
    availability, changes = RedisAvailability(Clock()), list[bool]()
    availability.on_change = lambda: changes.append(availability.up)
    for _ in range(3):
        availability.record_success()
    for _ in range(3):
        availability.record_failure(RedisConnectionError("gone"), "reading")
    availability.record_success()
    assert changes == [True, False, True]


async def test_the_check_is_a_write_that_changes_nothing() -> None:
    redis, availability = FakeRedis(OutOfMemoryError("OOM"), 0), RedisAvailability()
    watch = asyncio.create_task(availability.watch(redis, "arq:queue", 3600.0))
    await turn(20)
    assert not availability.up
    watch.cancel()
    assert redis.sent[0][:3] == ("ZADD", "arq:queue", "XX")


async def test_the_check_writes_to_the_queue_since_a_user_may_have_no_other_right() -> None:
    redis = FakeRedis()
    watch = asyncio.create_task(RedisAvailability().watch(redis, "mail", 3600.0))
    await turn(20)
    watch.cancel()
    assert redis.sent[0][:3] == ("ZADD", "mail", "XX")


async def test_a_write_is_repeated_until_redis_accepts_it() -> None:
    redis = FakeRedis(OutOfMemoryError("OOM"), RedisConnectionError("gone"), 7)
    availability = RedisAvailability()
    written = await availability.retry_until_accepted(
        "writing", lambda: redis.execute_command("SET", "a", 1), lambda: False
    )
    assert written == 7
    assert len(redis.sent) == 3
    assert availability.ok_at is not None


async def test_a_write_is_given_up_where_the_caller_gives_up() -> None:
    redis, availability = FakeRedis(OutOfMemoryError("OOM")), RedisAvailability()
    with pytest.raises(OutOfMemoryError):
        await availability.retry_until_accepted(
            "writing", lambda: redis.execute_command("SET", "a", 1), lambda: True
        )
    assert len(redis.sent) == 1


async def test_a_check_without_an_answer_counts_as_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        async def execute_command(self, *_: object, **__: object) -> object:
            await asyncio.Event().wait()
            return None

    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.01)
    availability = RedisAvailability()
    watch = asyncio.create_task(availability.watch(Silent(), "arq:queue", 3600.0))
    await asyncio.sleep(0.05)
    assert "no answer in time" in availability.problem
    watch.cancel()


def test_monitors_receive_every_failure() -> None:
    received: list[BaseException] = []

    class Received(Monitor):
        def on_redis_failure(self, error: BaseException) -> None:
            received.append(error)

    error = RedisConnectionError("gone")
    availability = RedisAvailability(Clock(), Monitors([Received()]))
    availability.record_failure(error, "reading")
    availability.record_failure(error, "reading")
    assert received == [error, error]


async def test_a_stop_waits_a_second_in_all_for_a_redis_that_does_not_answer() -> None:
    clock = Clock()
    availability = RedisAvailability(clock)
    assert availability.parting().when() is None
    availability.record_failure(RedisConnectionError("gone"), "reading")
    loop = asyncio.get_running_loop()

    async def left() -> float:
        async with availability.parting() as limit:
            return (limit.when() or 0.0) - loop.time()

    assert 0.9 < await left() <= module.PARTING_S
    clock.now += 0.75
    assert await left() <= 0.25
    clock.now += 5.0
    with pytest.raises(TimeoutError):
        async with availability.parting():
            await asyncio.sleep(60)
    availability.record_success()
    assert availability.parting().when() is None


async def test_the_first_failure_says_what_is_wrong_with_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def diagnose() -> str:
        return "the port has no TLS"

    availability = RedisAvailability(Clock(), diagnose=diagnose)
    redis = FakeRedis(TimeoutError())
    watching = asyncio.create_task(availability.watch(redis, "q", 60.0))
    await turn(20)
    assert "(TimeoutError: no answer in time; the port has no TLS); nothing is lost" in caplog.text
    assert "is WORKER_REDIS_DSN right" not in caplog.text
    assert availability.problem.endswith("the port has no TLS")
    watching.cancel()
