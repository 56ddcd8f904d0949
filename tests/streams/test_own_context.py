"""A coroutine in a context of its own behaves as if it were awaited directly."""

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest
from workerbase.streams import own_context

T = TypeVar("T")

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def own(coroutine: Coroutine[Any, Any, T]) -> T:
    results: list[T] = []

    async def keep() -> None:
        results.append(await coroutine)

    rest = own_context.start(keep())
    if rest is not None:
        await rest
    return results[0]


async def test_what_it_sets_is_not_seen_outside() -> None:
    async def run() -> str:
        tenant.set("a")
        await asyncio.sleep(0)
        return tenant.get()

    assert await own(run()) == "a"
    assert tenant.get() == "nobody"


async def test_it_sees_what_was_set_outside() -> None:
    async def run() -> str:
        await asyncio.sleep(0)
        return tenant.get()

    token = tenant.set("outer")
    try:
        assert await own(run()) == "outer"
    finally:
        tenant.reset(token)


async def test_tasks_that_it_starts_inherit_its_context() -> None:
    async def child() -> str:
        return tenant.get()

    async def run() -> str:
        tenant.set("a")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child())
        return task.result()

    assert await own(run()) == "a"


async def test_its_exception_passes() -> None:
    async def run() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await own(run())


async def test_a_cancellation_reaches_it_and_it_can_clean_up() -> None:
    cleaned = []

    async def run() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def outer() -> None:
        await own(run())

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cleaned == [True]
    assert task.cancelled()


async def test_timeouts_work_inside_and_around() -> None:
    async def inside() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        except TimeoutError:
            return "late"
        return "in time"

    assert await own(inside()) == "late"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await own(asyncio.sleep(10))


async def test_nothing_is_left_of_one_that_never_waits() -> None:
    ran: list[str] = []

    async def run() -> None:
        tenant.set("a")
        ran.append(tenant.get())

    assert own_context.start(run()) is None
    assert ran == ["a"]
    assert tenant.get() == "nobody"
