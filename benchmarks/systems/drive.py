"""Drives one system, in its own virtualenv: ``python -m benchmarks.systems.drive SYSTEM VERB``.

A system is a module with ``work()``, which runs a worker in the foreground, and ``send(sent)``,
which enqueues one message in the way its documentation shows. It may have ``send_many(sents)``,
for a batch in one go; ``prepare()``, called before anything is sent; and ``session()``, an
asynchronous context manager around all sending.

Verbs: ``work``; ``fill N`` as fast as it can; ``send N`` one after the other, printing the
seconds; ``trickle N SECONDS``, one every SECONDS.
"""

import asyncio
import importlib
import inspect
import sys
import time
from contextlib import nullcontext
from types import ModuleType

BATCH = 500
AT_ONCE = 50
"""Sends that run at the same time where there is no batch."""


async def _maybe(result: object) -> None:
    if inspect.isawaitable(result):
        await result


async def _fill(system: ModuleType, count: int) -> None:
    for first in range(0, count, BATCH):
        sents = [time.monotonic_ns()] * min(BATCH, count - first)
        if hasattr(system, "send_many"):
            await _maybe(system.send_many(sents))
        elif inspect.iscoroutinefunction(system.send):
            for some in range(0, len(sents), AT_ONCE):
                await asyncio.gather(*map(system.send, sents[some : some + AT_ONCE]))
        else:
            for sent in sents:
                system.send(sent)


async def _send(system: ModuleType, count: int) -> None:
    await _maybe(system.send(time.monotonic_ns()))  # connects
    begun = time.perf_counter()
    for _ in range(count - 1):
        await _maybe(system.send(time.monotonic_ns()))
    print((time.perf_counter() - begun) / (count - 1) * count, flush=True)


async def _trickle(system: ModuleType, count: int, interval: float) -> None:
    begun = time.perf_counter()
    for index in range(count):
        ahead = begun + index * interval - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        await _maybe(system.send(time.monotonic_ns()))
    print(time.perf_counter() - begun, flush=True)


async def _drive(system: ModuleType, verb: str, count: int, interval: float) -> None:
    async with getattr(system, "session", nullcontext)():
        if hasattr(system, "prepare"):
            await _maybe(system.prepare())
        if verb == "fill":
            await _fill(system, count)
        elif verb == "send":
            await _send(system, count)
        else:
            await _trickle(system, count, interval)


def main(name: str, verb: str, count: str = "0", interval: str = "0") -> None:
    """Carry out ``verb``."""
    system = importlib.import_module(f"benchmarks.systems.{name}")
    if verb == "work":
        system.work()
    else:
        asyncio.run(_drive(system, verb, int(count), float(interval)))


if __name__ == "__main__":
    main(*sys.argv[1:])
