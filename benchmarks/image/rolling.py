"""Workers are replaced by a newer image, one after the other, while messages and jobs come in.

The load is open: it does not wait for the workers. Each number is counted where it is handled, so
what is lost and what is handled twice is known exactly.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from pydantic import SecretStr
from workerbase import WorkerConfig
from workerbase.delivery.arq import ArqAdapter
from workerbase.streams.publish import EventPublisher

from benchmarks.harness import Metrics, percentile
from benchmarks.report import progress

from .engine import Network, docker, inspect, wait_until_healthy
from .recording import BEGUN, ENDED, STREAM, Parcel, carry

WORKERS = 2
TICK_S = 0.02
SHORT_S, LONG_S, LONG_EACH = 0.02, 2.0, 200
"""How long the work takes: a few messages and jobs are long, so that a stop finds some."""
STEADY_S = 10.0
"""Load without a replacement, before and after."""
SETTLE_TENTHS = 600
"""Of a second, at most, for what is left at the end."""
STOP_FIRST, START_FIRST, STEADY = "stopped, then started", "started, then stopped", "none"


@dataclass(frozen=True)
class Replacement:
    """One worker made way for another."""

    order: str
    begun: int
    ended: int
    """In nanoseconds since the epoch."""
    stop_s: float
    exit_code: int


@dataclass(frozen=True)
class Handled:
    """One message or job that was handled to its end."""

    number: int
    kind: str
    sent: int
    begun: int
    release: int


@dataclass
class Outcome:
    """What came of it."""

    sent: int = 0
    begun: dict[int, int] = field(default_factory=dict)
    handled: list[Handled] = field(default_factory=list)
    replacements: list[Replacement] = field(default_factory=list)
    left: int = 0
    """What Redis still holds in the end: waiting, pending, deferred, parked or dead-lettered."""

    def totals(self) -> Metrics:
        """Count."""
        ends = Counter(one.number for one in self.handled)
        times = [max(self.begun.get(number, 0), ends[number]) for number in range(self.sent)]
        return {
            "sent": self.sent,
            "lost": sum(ends[number] == 0 for number in range(self.sent)),
            "twice": sum(count > 1 for count in times),
            "left": self.left,
            "replaced": len(self.replacements),
            "failed": sum(one.exit_code != 0 for one in self.replacements),
            "stop_s": max(one.stop_s for one in self.replacements),
            "releases": len({one.release for one in self.handled}),
        }

    def phase(self, order: str, kind: str) -> Metrics:
        """Measure what was sent while a worker was replaced in this order, or while none was."""
        ordered = sorted(self.handled, key=lambda one: one.begun)
        spans = list(self._spans(order))
        late, gaps, seconds = [], [], 0.0
        for first, last in spans:
            seconds += (last - first) / 1e9
            late += [
                (one.begun - one.sent) / 1e6
                for one in ordered
                if one.kind == kind and first <= one.sent < last
            ]
            begun = [o.begun for o in ordered if o.kind == kind and first <= o.begun < last]
            gaps += [(later - earlier) / 1e6 for earlier, later in itertools.pairwise(begun)]
        return {
            "p95": percentile(late, 95),
            "p50": percentile(late, 50),
            "p99": percentile(late, 99),
            "most": max(late),
            "gap": max(gaps),
            "rate": len(late) / seconds,
        }

    def _spans(self, order: str) -> Iterator[tuple[int, int]]:
        if order != STEADY:
            yield from ((one.begun, one.ended) for one in self.replacements if one.order == order)
            return
        begun = min(one.sent for one in self.handled)
        yield begun, self.replacements[0].begun
        yield self.replacements[-1].ended, max(one.sent for one in self.handled)


class Sender:
    """Sends as many messages as jobs, at a constant rate."""

    def __init__(self, port: int, rate: float) -> None:
        config = WorkerConfig(redis_dsn=SecretStr(f"redis://127.0.0.1:{port}/0"))
        self.sent = 0
        self._each = max(1, round(rate * TICK_S / 2))
        self._events, self._jobs = EventPublisher(config), ArqAdapter(config)

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send until the end of the block; all that was sent by then is in Redis."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def _run(self, stop: asyncio.Event) -> None:
        async with self._events, self._jobs:
            begun = time.monotonic()
            for tick in itertools.count():
                if stop.is_set():
                    return
                numbers = range(self.sent, self.sent + 2 * self._each)
                now = time.time_ns()
                works = [(n, now, LONG_S if n % LONG_EACH < 2 else SHORT_S) for n in numbers]
                await asyncio.gather(
                    self._events.publish(
                        *[Parcel(number=n, sent=s, seconds=w) for n, s, w in works[::2]]
                    ),
                    *[self._jobs.enqueue(carry.job(*one)) for one in works[1::2]],
                )
                self.sent += len(works)
                ahead = begun + (tick + 1) * TICK_S - time.monotonic()
                if ahead > 0:
                    await asyncio.sleep(ahead)


async def replace_all(
    network: Network, images: list[str], rate: float, steady: float = STEADY_S
) -> Outcome:
    """Run workers of the first image, and replace them by each of the others in turn."""
    outcome = Outcome()
    serial = itertools.count()
    client: Any = redis.asyncio.Redis(port=network.redis_port, decode_responses=True)

    def start(image: str) -> str:
        name = network.start_worker(f"worker-{next(serial)}", image)
        wait_until_healthy(name)
        return name

    def stop(name: str) -> tuple[float, int]:
        begun = time.monotonic()
        docker("stop", name)
        took = time.monotonic() - begun
        code = int(inspect(name, ".State.ExitCode"))
        if code:
            progress(f"{name}: exit code {code}\n{docker('logs', name)}")
        network.remove(name)
        return took, code

    def replace(old: str, image: str, order: str) -> str:
        begun = time.time_ns()
        if order == START_FIRST:
            new = start(image)
            took, code = stop(old)
        else:
            took, code = stop(old)
            new = start(image)
        done = Replacement(order, begun, time.time_ns(), took, code)
        outcome.replacements.append(done)
        progress(f"{image.rpartition(':')[2]}, {order}: stopped in {took:.1f} s")
        return new

    sender = Sender(network.redis_port, rate)
    workers = [await asyncio.to_thread(start, images[0]) for _ in range(WORKERS)]
    async with sender.sending():
        await asyncio.sleep(steady)
        for image, order in zip(images[1:], itertools.cycle((STOP_FIRST, START_FIRST))):
            workers = [await asyncio.to_thread(replace, old, image, order) for old in workers]
        await asyncio.sleep(steady)
    outcome.sent = sender.sent
    await settle(client, sender.sent)
    for name in workers:
        await asyncio.to_thread(stop, name)
    outcome.left = await left(client)
    outcome.begun = {int(k): int(v) for k, v in (await client.hgetall(BEGUN)).items()}
    outcome.handled = [Handled(*json.loads(one)) for one in await client.lrange(ENDED, 0, -1)]
    await client.aclose()
    return outcome


async def settle(client: Any, sent: int) -> None:
    """Wait until as much is handled as was sent, and then for what may come a second time."""
    for _ in range(SETTLE_TENTHS):
        if await client.llen(ENDED) >= sent:
            break
        await asyncio.sleep(0.1)
    # Twice the lease: whoever thought that something was left behind has taken it by then.
    await asyncio.sleep(2 * WorkerConfig().lease_timeout)


async def left(client: Any) -> int:
    """Count what Redis still holds."""
    queue = WorkerConfig().queue_name
    streams = (STREAM, f"{STREAM}:dlq", f"{STREAM}:parked", f"{queue}:dlq")
    lengths = [await client.xlen(name) for name in streams]
    return int(sum(lengths) + await client.zcard(queue))
