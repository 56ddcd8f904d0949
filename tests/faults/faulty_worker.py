"""A worker process that a chosen command of its own kills or robs of its answer.

Points are counted over all asynchronous clients of the process, by what is sent: a command, or the
name of a script. What runs by the clock, such as renewals, is not counted.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import redis as sync
import workerbase
from arq.cron import cron
from arq.worker import func
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase.base import BaseArqWorkerSettings
from workerbase.broker.client import connect
from workerbase.broker.scripts import Script
from workerbase.errors import PermanentError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

PERIODIC = frozenset(
    {"AUTH", "CLIENT", "EVAL", "HELLO", "INFO", "PING", "SELECT", "SMEMBERS", "SUBSCRIBE", "TIME"}
    | {"UNSUBSCRIBE", "XINFO", "XLEN", "XPENDING", "ZCARD", "ZREMRANGEBYSCORE"}
    | {"remove_idle_consumers", "renew", "trim"}
)
"""What a worker sends by the clock, or while it connects."""
KILLED = 9
"""Exit code of a worker that reached its point."""
MODES = ("before", "sent", "answered", "lost", "cut")
"""Killed before it sends the command, when it has sent it, or when it has the answer; or the
connection ends before the answer has come, or in the middle of it."""
WAIT_S = 15.0


@dataclass(frozen=True)
class Point:
    """The ``number``-th time that ``name`` is sent."""

    name: str
    number: int
    mode: str = ""

    def __str__(self) -> str:
        return f"{self.mode} {self.name} {self.number}"


class Work(Event, type="work", stream="work"):
    kind: str


def script_names() -> dict[str, str]:
    """Return the name of each script by its digest."""
    root = Path(str(workerbase.__file__)).parent
    return {
        Script.load(f"workerbase.{path.parts[-3]}.x", path.stem)._sha: path.stem
        for path in root.glob("*/lua/*.lua")
    }


class Faults:
    """Counts what is sent, and does harm at one point."""

    def __init__(self, point: Point | None) -> None:
        self.point = point
        self.sent: list[str] = []
        self._counts: Counter[str] = Counter()
        self._scripts = script_names()
        self._robbed: set[AbstractConnection] = set()

    def install(self) -> None:
        send, read = AbstractConnection.send_packed_command, AbstractConnection.read_response
        faults = self

        async def sending(
            self: AbstractConnection, command: Any, check_health: bool = True
        ) -> None:
            hit = faults._reached(command)
            if hit == "before":
                os._exit(KILLED)
            await send(self, command, check_health)
            if hit == "sent":
                os._exit(KILLED)
            if hit:
                faults._robbed.add(self)

        async def reading(self: AbstractConnection, *args: Any, **options: Any) -> Any:
            if self not in faults._robbed:
                return await read(self, *args, **options)
            faults._robbed.discard(self)
            return await faults._rob(self, read(self, *args, **options))

        AbstractConnection.send_packed_command = sending  # type: ignore[method-assign]
        AbstractConnection.read_response = reading  # type: ignore[method-assign]

    def _reached(self, command: Any) -> str:
        """Count what is sent; return the mode if this is the point."""
        data = command if isinstance(command, bytes) else b"".join(command)
        parts = data.split(b"\r\n")
        name = parts[2].decode().upper()
        if name == "EVALSHA":
            name = self._scripts[parts[4].decode()]
        if name in PERIODIC:
            return ""
        self.sent.append(name)
        self._counts[name] += 1
        point = self.point
        if point is None or (name, self._counts[name]) != (point.name, point.number):
            return ""
        return point.mode

    async def _rob(self, connection: AbstractConnection, answer: Any) -> Any:
        point = cast("Point", self.point)
        if point.mode == "cut":
            answer.close()
            await cast("Any", connection)._reader.read(1)
        else:
            try:
                await answer
            except Exception:  # an answer, too
                logging.getLogger(__name__).info("the answer was an error")
        if point.mode == "answered":
            os._exit(KILLED)
        await connection.disconnect(nowait=True)
        raise RedisConnectionError("the connection was cut")


def settings_for(config: Config, cron_second: int) -> type[BaseArqWorkerSettings]:
    """The worker: what its handlers and tasks did is counted in Redis, over another client."""
    notes = sync.Redis.from_url(config.redis_dsn.get_secret_value())
    router = EventRouter()

    def act(kind: str) -> None:
        first = notes.incr(f"ran:{kind}") == 1
        if kind == "permanent":
            raise PermanentError(kind)
        if kind == "failing" or (kind == "flaky" and first):
            raise ValueError(kind)
        notes.incr("done")

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        act(event.kind)

    async def job(ctx: Ctx, kind: str) -> str:
        act(kind)
        return kind

    async def tick(ctx: Ctx) -> None:
        act("tick")

    own = config

    class Settings(BaseArqWorkerSettings):
        config = own
        functions = (func(job, name="job"),)
        services = (Streams(router), LeasedJobs())
        # arq makes a single attempt of a tick by default.
        cron_jobs = (
            (cron(tick, name="tick", second=cron_second, max_tries=3),) if cron_second >= 0 else ()
        )

    return Settings


@dataclass(frozen=True)
class Run:
    """What one worker process does."""

    settings: dict[str, Any]
    cron_second: int
    replay: str = ""
    """Source whose dead letters are replayed first."""
    point: Point | None = None


def main(run: Run, settled: Callable[[sync.Redis], bool], report: Connection) -> None:
    """Run a worker until it is killed, or report what it sent and whether all is settled."""
    logging.basicConfig(level="WARNING", filename=run.settings["health_file"] + ".log")
    faults = Faults(run.point)
    faults.install()
    config = Config.model_validate(run.settings)
    asyncio.run(_serve(run, config, settled, lambda done: report.send((done, faults.sent))))


async def _serve(
    run: Run,
    config: Config,
    settled: Callable[[sync.Redis], bool],
    report: Callable[[bool], object],
) -> None:
    admin = sync.Redis.from_url(config.redis_dsn.get_secret_value())
    if run.replay:
        client = connect(config.dsn)
        queue = DeadLetterQueue.of_source(cast("RedisClient", client), run.replay)
        with contextlib.suppress(RedisConnectionError):  # whoever calls it calls it again
            async for entry in queue.scan():
                await queue.replay(entry, max_replays=3)
        async for entry in queue.scan():
            await queue.replay(entry, max_replays=3)
        await client.aclose(close_connection_pool=True)
    stop = asyncio.Event()
    settings = resolved_settings(settings_for(config, run.cron_second))
    serving = asyncio.create_task(serve(settings, stop))
    deadline = time.monotonic() + WAIT_S
    while (  # noqa: ASYNC110 - what it waits for is in Redis
        not (done := settled(admin)) and time.monotonic() < deadline and not serving.done()
    ):
        await asyncio.sleep(0.02)
    report(done)
    os._exit(0)  # a stop is not a part of the path
