"""Wait for what is to come true, instead of sleeping."""

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
