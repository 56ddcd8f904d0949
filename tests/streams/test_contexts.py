"""Each message is handled in a context of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar

import pytest
from streamkit import STREAM, Work, client_of, consuming, send
from waiting import until
from workerbase.errors import PermanentError, TransientError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.streams import EventContext, EventRouter
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RedisClient]:
    async with client_of(server) as redis:
        yield redis


async def test_what_a_handler_sets_is_not_seen_by_the_next(
    server: Server, client: RedisClient, config_for: ConfigFor
) -> None:
    router, seen = EventRouter(), list[str]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.append(tenant.get())
        tenant.set(f"tenant-{event.number}")
        await asyncio.sleep(0)
        assert tenant.get() == f"tenant-{event.number}"

    await send(client, *range(60))
    async with consuming(router, config_for(server, concurrency=4)):
        await until(lambda: len(seen) == 60)

    assert set(seen) == {"nobody"}


async def test_a_permanent_error_in_a_task_group_is_dead_lettered_at_once(
    server: Server, client: RedisClient, config_for: ConfigFor
) -> None:
    router = EventRouter()
    attempts: list[int] = []

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        attempts.append(ctx.attempt)

        async def fail() -> None:
            raise PermanentError("no such customer")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    await send(client, 1)
    dlq = DeadLetterQueue.of_source(client, STREAM)
    async with consuming(router, config_for(server)):
        await until(dlq.size)

    (letter,) = [entry async for entry in dlq.scan()]
    assert attempts == [1]
    assert letter.error == "PermanentError: no such customer"
    assert letter.payload["_reason"] == "permanent"


async def test_the_delay_of_a_transient_error_in_a_task_group_is_kept(
    server: Server, client: RedisClient, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        async def fail() -> None:
            raise TransientError("later", delay=60.0)

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    await send(client, 1)
    async with consuming(router, config_for(server)):
        await until(lambda: "retried in 60.0 s after attempt 1" in caplog.text)
