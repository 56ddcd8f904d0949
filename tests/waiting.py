"""Wait for conditions, instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest


async def until(
    condition: Callable[[], Awaitable[object] | object], timeout: float = 30.0, what: str = ""
) -> Any:
    """Wait until ``condition`` holds and return what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)


def until_true(condition: Callable[[], Any], what: str, *, patience: float) -> Any:
    """The same without an event loop, for conditions of other processes."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {patience:.0f} s")
