"""Monitors: told everything, and never able to harm the work."""

import asyncio
import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
from arq.worker import func
from waiting import until
from workerbase import BaseArqWorkerSettings, PermanentError, task
from workerbase.config import WorkerConfig
from workerbase.connect import connect
from workerbase.delivery.streams import publish
from workerbase.devtools.server import Server
from workerbase.events import Event, EventContext, EventRouter
from workerbase.monitor import Monitor, Monitors, Outcome, Work
from workerbase.runner import serve
from workerbase.types import Ctx, RedisClient


class Record(Monitor):
    def __init__(self) -> None:
        self.around: list[tuple[str, str]] = []
        self.outcomes: list[tuple[str, str, Outcome, int]] = []
        self.works: list[Work] = []
        self.seconds: list[float] = []
        self.told: list[object] = []

    @contextlib.contextmanager
    def running(self, work: Work) -> Generator[None]:
        self.around.append((work.name, "begins"))
        try:
            yield
        except BaseException as exc:
            self.around.append((work.name, type(exc).__name__))
            raise
        self.around.append((work.name, "ends"))

    def ended(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        self.works.append(work)
        self.seconds.append(seconds)
        self.outcomes.append((work.kind, work.name, outcome, work.attempt))

    def leases(self, *what: object) -> None:
        self.told.append(what)

    def redis_failed(self, error: BaseException) -> None:
        self.told.append(type(error).__name__)

    def breaker(self, *, is_open: bool) -> None:
        self.told.append(is_open)


class Raises(Monitor):
    @contextlib.contextmanager
    def running(self, work: Work) -> Generator[None]:
        yield
        raise RuntimeError("a monitor is broken")

    def ended(self, *_: object) -> None:
        raise RuntimeError("a monitor is broken")

    def leases(self, *_: object) -> None:
        raise RuntimeError("a monitor is broken")


class RaisesAtOnce(Monitor):
    def running(self, work: Work) -> contextlib.AbstractContextManager[object]:
        raise RuntimeError("a monitor is broken")


class Ordered(Event, type="ordered", stream="orders"):
    number: int


@task(max_retries=2, backoff=0.0)
async def double(ctx: Ctx, number: int) -> int:
    await asyncio.sleep(0.3)
    if number < 0:
        raise ValueError("negative")
    return number * 2


def settings_of(server: Server, folder: Path, record: Monitor) -> type[BaseArqWorkerSettings]:
    events = EventRouter()

    @events.on(Ordered)
    async def handle(event: Ordered, ctx: EventContext) -> None:
        await asyncio.sleep(0.3)
        if event.number < 0 and ctx.attempt > 1:
            raise PermanentError("negative")
        if event.number < 0:
            raise ValueError("negative")

    class Settings(BaseArqWorkerSettings):
        config = WorkerConfig.model_validate(
            {
                "redis_dsn": server.dsn,
                "health_file": str(folder / "healthy"),
                "retry_backoff": 0.0,
                "lease_timeout": 1.0,
            }
        )
        router = events
        functions = (double,)
        monitors = (Raises(), record, RaisesAtOnce())

    return Settings


async def test_a_worker_tells_what_becomes_of_messages_and_jobs(
    server: Server, tmp_path: Path
) -> None:
    record = Record()
    settings = settings_of(server, tmp_path, record)
    assert settings.config
    client = connect(settings.config.location)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(settings, stop))
    try:
        await publish(cast("RedisClient", client), Ordered(number=1), Ordered(number=-1))
        await client.xadd("orders", {"type": "strange", "data": "{}", "_trace": "00-aa-bb-01"})
        await client.enqueue_job("double", 4)
        await client.enqueue_job("double", -4)
        await client.enqueue_job("nothing")
        await until(lambda: len(record.outcomes) >= 9)
    finally:
        stop.set()
        await running
        await client.aclose(close_connection_pool=True)
    assert sorted(record.outcomes) == [
        ("job", "double", "dead_lettered", 2),
        ("job", "double", "handled", 1),
        ("job", "double", "retried", 1),
        ("job", "nothing", "dead_lettered", 1),
        ("job", "requeue_to_stream", "handled", 1),
        ("message", "ordered", "dead_lettered", 2),
        ("message", "ordered", "handled", 1),
        ("message", "ordered", "retried", 1),
        ("message", "strange", "parked", 1),
    ]
    assert record.around.count(("double", "ValueError")) == 2
    assert ("ordered", "PermanentError") in record.around
    assert ("strange", "UnknownEventError") in record.around
    assert ("requeue_to_stream", "ends") in record.around
    ran = [w.name for w, seconds in zip(record.works, record.seconds, strict=True) if seconds > 0.2]
    assert sorted(ran) == ["double"] * 3 + ["ordered"] * 3
    (strange,) = [work for work in record.works if work.name == "strange"]
    assert (strange.source, strange.trace) == ("orders", "00-aa-bb-01")
    events = {what[:2] for what in record.told if isinstance(what, tuple)}
    assert {("message", "renewed"), ("job", "renewed")} <= events


async def test_failures_of_redis_and_the_breaker_are_told(tmp_path: Path) -> None:
    record = Record()
    with Server() as server:
        settings = settings_of(server, tmp_path, record)
        assert settings.config
        config = settings.config.model_copy(update={"breaker_threshold": 2, "max_retries": 9})
        settings.config = config
        client = connect(config.location)
        stop = asyncio.Event()
        running = asyncio.create_task(serve(settings, stop))
        try:
            failing = [Ordered(number=-1), Ordered(number=-2)]
            await publish(cast("RedisClient", client), *failing)
            await until(lambda: True in record.told)
            await publish(cast("RedisClient", client), Ordered(number=1))
            await until(lambda: False in record.told)
            server.kill()
            await until(lambda: "ConnectionError" in record.told)
            server.start()
        finally:
            stop.set()
            await running
            await client.aclose(close_connection_pool=True)


def test_no_monitors_are_no_monitors() -> None:
    assert not Monitors()
    assert Monitors([Record()])


def test_a_broken_monitor_is_logged_and_hides_no_error(caplog: Any) -> None:
    record = Record()
    monitors = Monitors([RaisesAtOnce(), Raises(), record])
    work = Work("job", "queue", "name", "id", 1)
    with pytest.raises(ValueError, match="the work's own"), monitors.running(work):
        raise ValueError("the work's own")
    assert record.around == [("name", "begins"), ("name", "ValueError")]
    with monitors.running(work):
        pass
    assert "a monitor failed; the work goes on" in caplog.text


def test_leases_of_nothing_are_not_told() -> None:
    record = Record()
    Monitors([record]).leases("job", "renewed", 0)
    assert record.told == []


async def test_what_took_too_long_failed_with_a_timeout(server: Server, tmp_path: Path) -> None:
    record = Record()
    settings = settings_of(server, tmp_path, record)
    assert settings.config
    update = {"handler_timeout": 0.1, "max_retries": 1}
    settings.config = settings.config.model_copy(update=update)
    settings.functions = [func(late, timeout=0.1, max_tries=1)]
    client = connect(settings.config.location)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(settings, stop))
    try:
        await publish(cast("RedisClient", client), Ordered(number=1))
        await client.enqueue_job("late")
        await until(lambda: len(record.outcomes) == 2)
    finally:
        stop.set()
        await running
        await client.aclose(close_connection_pool=True)
    assert {outcome for _, _, outcome, _ in record.outcomes} == {"dead_lettered"}
    assert ("ordered", "TimeoutError") in record.around
    assert ("late", "TimeoutError") in record.around


async def late(ctx: Ctx) -> None:
    await asyncio.sleep(30)
