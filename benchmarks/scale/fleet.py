"""Workers that wait in their handlers, on one server or several, and what they cost each."""

import asyncio
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr
from workerbase import WorkerConfig
from workerbase.streams import EventPublisher
from workerbase.testing.redis_server import Server

from benchmarks.harness import SETTLE_S, Bench, Load, Metrics, Records, System
from benchmarks.systems.ours_streams import Message

OURS = System("ours", "ours_streams")
LOAD = Load(20, 0.1)
MOST_LIVE = 1600.0
"""Events a second that two cores can publish, serve and handle one by one."""
LIVE_SHARE = 0.5
"""Of what the workers could do."""


class ShardedPublisher:
    """Publishes each event to the server that its key belongs to: events of one key share one."""

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        self.shards = [EventPublisher(config) for config in configs]

    async def publish(self, key: str, event: Message) -> None:
        """Publish ``event`` to the shard of ``key``."""
        await self.shards[zlib.crc32(key.encode()) % len(self.shards)].publish(event)

    async def fill(self, count: int) -> None:
        """Publish ``count`` events in batches, the same number to each shard."""
        each = [Message(sent=time.monotonic_ns())] * (count // len(self.shards))
        await asyncio.gather(*[shard.publish(*each) for shard in self.shards])

    async def trickle(self, count: int, rate: float) -> None:
        """Publish ``count`` events of as many keys one after the other, ``rate`` in a second."""
        begun = time.perf_counter()
        for index in range(count):
            ahead = begun + index / rate - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            await self.publish(f"customer-{index}", Message(sent=time.monotonic_ns()))


class Shard(Bench):
    """One server and the workers that it feeds."""

    def __init__(self, server: Server, log: Path, stack: ExitStack) -> None:
        super().__init__(server, log)
        self.install(OURS)
        self.workers: list[psutil.Process] = []
        self._stack = stack
        self._records: list[Records] = []

    def grow(self, size: int) -> None:
        """Start workers until there are ``size``; return when all of them read."""
        load = Load(LOAD.concurrency, LOAD.seconds, size - len(self.workers))
        if load.processes > 0:
            started, records = self._stack.enter_context(self._workers(OURS, load))
            self.workers += [psutil.Process(worker.pid) for worker in started]
            self._records.append(records)
        while self._readers() < size:
            if not all(worker.is_running() for worker in self.workers):
                raise SystemExit("a worker has ended; see --log")
            time.sleep(0.05)

    def _readers(self) -> int:
        return int(self._redis.info("clients")["blocked_clients"])

    def server_cpu(self) -> float:
        """Return the CPU seconds of the server."""
        cpu = self._redis.info("cpu")
        return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])

    def connections(self) -> int:
        """Return how many connections the workers hold, those of publishers aside."""
        return int(self._redis.info("clients")["connected_clients"]) - 1

    def commands(self) -> float:
        """Return how many commands the server has run."""
        return self._commands()[0]

    def handled(self) -> int:
        """Count what its workers have handled."""
        return sum(records.count() for records in self._records)


@dataclass(frozen=True)
class Counts:
    """What has been counted since the start, over all shards."""

    time: float
    handled: int
    commands: float
    server: tuple[float, ...]
    """CPU seconds of each server."""
    workers: float
    machine: float
    """CPU seconds of whatever runs on this machine."""

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "Counts":
        """Count now."""
        busy = psutil.cpu_times()
        return cls(
            time.monotonic(),
            sum(shard.handled() for shard in shards),
            sum(shard.commands() for shard in shards),
            tuple(shard.server_cpu() for shard in shards),
            sum(sum(worker.cpu_times()[:2]) for shard in shards for worker in shard.workers),
            busy.user + busy.system,
        )


def between(before: Counts, after: Counts, load: Load) -> Metrics:
    """Return what one message cost, and how many there were, in between."""
    seconds, handled = after.time - before.time, after.handled - before.handled
    servers = [b - a for a, b in zip(before.server, after.server, strict=True)]
    each = max(1, handled)
    return {
        "workers": float(load.processes),
        "rate": handled / seconds,
        "per_worker": handled / seconds / load.processes,
        "ideal": handled / seconds / load.ideal,
        "server_us": sum(servers) / each * 1e6,
        "server_cpu": max(servers) / seconds,
        "worker_us": (after.workers - before.workers) / each * 1e6,
        "worker_cpu": (after.workers - before.workers) / seconds,
        "commands": (after.commands - before.commands) / each,
        "command_rate": (after.commands - before.commands) / seconds,
        "machine": (after.machine - before.machine) / seconds / (psutil.cpu_count() or 1),
    }


class Fleet:
    """Shards of the same size, and a publisher that knows them."""

    def __init__(self, count: int, log: Path, stack: ExitStack) -> None:
        # As it has to be run where no message may be lost.
        servers = [stack.enter_context(Server(persistent=True)) for _ in range(count)]
        self.shards = [Shard(server, log, stack) for server in servers]
        self.configs = [WorkerConfig(redis_dsn=SecretStr(server.dsn)) for server in servers]
        self.load = Load(LOAD.concurrency, LOAD.seconds, 0)

    def grow(self, size: int) -> None:
        """Have ``size`` workers in all."""
        for shard in self.shards:
            shard.grow(size // len(self.shards))
        self.load = Load(LOAD.concurrency, LOAD.seconds, size)

    async def _window(self, seconds: float) -> Metrics:
        before = Counts.of(self.shards)
        await asyncio.sleep(seconds)
        return between(before, Counts.of(self.shards), self.load)

    async def publishing(self, count: int) -> Metrics:
        """Publish to nobody: what an event costs the server before a worker sees it."""
        before = Counts.of(self.shards)
        await ShardedPublisher(self.configs).trickle(count, float("inf"))
        after = Counts.of(self.shards)
        seconds, server = after.time - before.time, after.server[0] - before.server[0]
        return {"rate": count / seconds, "server_us": server / count * 1e6}

    async def backlog(self, seconds: float) -> Metrics:
        """Measure while there is more to do than the workers can."""
        # A second before and one after: the last of a backlog keeps few slots busy.
        count = int(self.load.ideal * (seconds + 2)) // len(self.shards) * len(self.shards)
        target = self._handled() + count
        # Stopped for as long as it takes, or many workers do it as fast as it is laid.
        for worker in self._workers:
            worker.suspend()
        await ShardedPublisher(self.configs).fill(count)
        for worker in self._workers:
            worker.resume()
        await asyncio.sleep(1)
        metrics = await self._window(seconds)
        return metrics | self._rest(target) | {"wanted": self.load.ideal}

    async def live(self, seconds: float, most: float = MOST_LIVE) -> Metrics:
        """Measure while events come one by one, and fewer than the workers could handle."""
        rate = min(most, LIVE_SHARE * self.load.ideal)
        count = int(rate * (seconds + 1))
        target = self._handled() + count
        publishing = asyncio.create_task(ShardedPublisher(self.configs).trickle(count, rate))
        await asyncio.sleep(0.5)
        metrics = await self._window(seconds)
        await publishing
        return metrics | self._rest(target) | {"wanted": rate}

    async def idle(self, seconds: float) -> Metrics:
        """Measure what the workers cost while there is nothing to do."""
        await asyncio.sleep(1)
        window = await self._window(seconds)
        return window | {"connections": float(sum(s.connections() for s in self.shards))}

    def _rest(self, target: int) -> Metrics:
        """Let the workers end what they have; say what was not handled, and what twice."""
        deadline = time.monotonic() + 60
        while (handled := self._handled()) < target and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(SETTLE_S)
        missing, twice = max(0, target - handled), max(0, self._handled() - target)
        return {"missing": float(missing), "twice": float(twice)}

    @property
    def _workers(self) -> list[psutil.Process]:
        return [worker for shard in self.shards for worker in shard.workers]

    def _handled(self) -> int:
        return sum(shard.handled() for shard in self.shards)
