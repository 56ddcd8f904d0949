"""What a job does in its own run: its context, its groups of errors, its arguments."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import pytest
from jobkit import QUEUE, burst, client_of, dead_letters, until, working
from workerbase.broker import keys
from workerbase.errors import PermanentError
from workerbase.task_utils import task
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_what_a_job_sets_is_not_seen_by_the_next(
    server: Server, config_for: ConfigFor
) -> None:
    seen: list[str] = []

    async def work(ctx: Ctx, number: int) -> None:
        seen.append(tenant.get())
        tenant.set(f"tenant-{number}")
        await asyncio.sleep(0)

    config = config_for(server, max_jobs=2)
    async with client_of(config) as client, working(config, work):
        for number in range(100):
            await client.enqueue_job("work", number)
        await until(lambda: len(seen) == 100)

    assert set(seen) == {"nobody"}


async def test_a_permanent_error_in_a_task_group_ends_a_job_at_once(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[int] = []

    async def work(ctx: Ctx) -> None:
        attempts.append(cast("int", ctx["job_try"]))

        async def fail() -> None:
            raise PermanentError("no such customer")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    config = config_for(server)
    async with client_of(config) as client:
        await client.enqueue_job("work")
        await burst(config, work)
        (letter,) = await dead_letters(client)

    assert attempts == [1]
    assert letter.error == "PermanentError: no such customer"


@pytest.mark.parametrize("declare", [lambda f: f, task()], ids=["function", "task"])
async def test_arguments_that_do_not_fit_are_dead_lettered_as_invalid_at_once(
    server: Server, config_for: ConfigFor, declare: Callable[[Any], Any]
) -> None:
    async def work(ctx: Ctx, number: int) -> None: ...

    work.__qualname__ = "work"
    config = config_for(server)
    async with client_of(config) as client:
        await client.enqueue_job("work", 1, 2, 3)
        engine = await burst(config, declare(work))
        (letter,) = await dead_letters(client)

    assert letter.payload["_reason"] == "invalid"
    assert "positional argument" in letter.error
    assert engine.executor.retried == 0


async def test_a_type_error_inside_a_job_is_retried(server: Server, config_for: ConfigFor) -> None:
    async def work(ctx: Ctx, number: int) -> None:
        raise TypeError("inside")

    config = config_for(server, max_retries=2)
    async with client_of(config) as client:
        await client.enqueue_job("work", 1)
        engine = await burst(config, work)
        (letter,) = await dead_letters(client)

    assert letter.payload["_reason"] == "retries"
    assert engine.executor.retried == 1


@pytest.mark.parametrize("junk", [b"", b"x", b"1 2", b"two 3 ab", b"2 soon ab", b"\xff \xff \xff"])
async def test_a_malformed_message_on_a_channel_of_the_worker_is_ignored(
    server: Server, config_for: ConfigFor, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    done = asyncio.Event()

    async def work(ctx: Ctx) -> None:
        done.set()

    config = config_for(server, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, work) as engine:
        redis = cast("RedisClient", client)
        await redis.execute_command("PUBLISH", keys.hand_over(QUEUE, engine.name), junk)
        await redis.execute_command("PUBLISH", keys.wake(QUEUE), junk)
        await until(lambda: "ignoring a malformed message" in caplog.text)
        await client.enqueue_job("work")
        await done.wait()
