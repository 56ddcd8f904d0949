"""Monitors receive every event, and cannot harm the work."""

import asyncio
import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest
from arq.worker import func
from waiting import until
from workerbase import BaseArqWorkerSettings, PermanentError, task
from workerbase.broker.client import connect
from workerbase.jobs import LeasedJobs
from workerbase.monitor import Monitor, Monitors, Outcome, Work
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams, publish
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config


class Record(Monitor):
    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []
        self.outcomes: list[tuple[str, str, Outcome, int]] = []
        self.works: list[Work] = []
        self.seconds: list[float] = []
        self.events: list[object] = []

    @contextlib.contextmanager
    def around(self, work: Work) -> Generator[None]:
        self.runs.append((work.name, "begins"))
        try:
            yield
        except BaseException as exc:
            self.runs.append((work.name, type(exc).__name__))
            raise
        self.runs.append((work.name, "ends"))

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        self.works.append(work)
        self.seconds.append(seconds)
        self.outcomes.append((work.kind, work.name, outcome, work.attempt))

    def on_leases(self, *what: object) -> None:
        self.events.append(what)

    def on_redis_failure(self, error: BaseException) -> None:
        self.events.append(type(error).__name__)

    def on_breaker(self, *, is_open: bool) -> None:
        self.events.append(is_open)


class Raises(Monitor):
    @contextlib.contextmanager
    def around(self, work: Work) -> Generator[None]:
        yield
        raise RuntimeError("a monitor is broken")

    def on_finished(self, *_: object) -> None:
        raise RuntimeError("a monitor is broken")

    def on_leases(self, *_: object) -> None:
        raise RuntimeError("a monitor is broken")


class RaisesAtOnce(Monitor):
    def around(self, work: Work) -> contextlib.AbstractContextManager[object]:
        raise RuntimeError("a monitor is broken")


class Ordered(Event, type="ordered", stream="orders"):
    number: int


@task(max_retries=2, backoff=0.0)
async def double(ctx: Ctx, number: int) -> int:
    await asyncio.sleep(0.3)
    if number < 0:
        raise ValueError("negative")
    return number * 2


def settings_of(
    server: Server, folder: Path, record: Monitor, **changes: object
) -> ResolvedSettings:
    events = EventRouter()

    @events.on(Ordered)
    async def handle(event: Ordered, ctx: EventContext) -> None:
        await asyncio.sleep(0.3)
        if event.number < 0 and ctx.attempt > 1:
            raise PermanentError("negative")
        if event.number < 0:
            raise ValueError("negative")

    class Settings(BaseArqWorkerSettings):
        config = Config.model_validate(
            {
                "redis_dsn": server.dsn,
                "health_file": str(folder / "healthy"),
                "retry_backoff": 0.0,
                "lease_timeout": 1.0,
                **changes,
            }
        )
        services = (Streams(events), LeasedJobs())
        functions = (double, func(late, timeout=0.1, max_tries=1))
        monitors = (Raises(), record, RaisesAtOnce())

    return resolved_settings(Settings)


async def test_a_worker_reports_the_outcome_of_messages_and_jobs(
    server: Server, tmp_path: Path
) -> None:
    record = Record()
    settings = settings_of(server, tmp_path, record)
    client = connect(settings.config.dsn)
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
    assert record.runs.count(("double", "ValueError")) == 2
    assert ("ordered", "PermanentError") in record.runs
    assert ("strange", "UnknownEventError") in record.runs
    assert ("requeue_to_stream", "ends") in record.runs
    ran = [w.name for w, seconds in zip(record.works, record.seconds, strict=True) if seconds > 0.2]
    assert sorted(ran) == ["double"] * 3 + ["ordered"] * 3
    (strange,) = [work for work in record.works if work.name == "strange"]
    assert (strange.source, strange.trace) == ("orders", "00-aa-bb-01")
    events = {what[:2] for what in record.events if isinstance(what, tuple)}
    assert {("message", "renewed"), ("job", "renewed")} <= events


async def test_failures_of_redis_and_the_breaker_are_reported(tmp_path: Path) -> None:
    record = Record()
    with Server() as server:
        settings = settings_of(server, tmp_path, record, breaker_threshold=2, max_retries=9)
        client = connect(settings.config.dsn)
        stop = asyncio.Event()
        running = asyncio.create_task(serve(settings, stop))
        try:
            failing = [Ordered(number=-1), Ordered(number=-2)]
            await publish(cast("RedisClient", client), *failing)
            await until(lambda: True in record.events)
            await publish(cast("RedisClient", client), Ordered(number=1))
            await until(lambda: False in record.events)
            server.kill()
            await until(lambda: "ConnectionError" in record.events)
            server.start()
        finally:
            stop.set()
            await running
            await client.aclose(close_connection_pool=True)


def test_without_monitors_it_is_false() -> None:
    assert not Monitors()
    assert Monitors([Record()])


def test_a_broken_monitor_is_logged_and_hides_no_error(caplog: Any) -> None:
    record = Record()
    monitors = Monitors([RaisesAtOnce(), Raises(), record])
    work = Work("job", "queue", "name", "id", 1)
    with pytest.raises(ValueError, match="the work's own"), monitors.around(work):
        raise ValueError("the work's own")
    assert record.runs == [("name", "begins"), ("name", "ValueError")]
    with monitors.around(work):
        pass
    assert "a monitor failed; the work goes on" in caplog.text


def test_a_count_of_no_leases_is_not_reported() -> None:
    record = Record()
    Monitors([record]).on_leases("job", "renewed", 0)
    assert record.events == []


async def test_what_took_too_long_failed_with_a_timeout(server: Server, tmp_path: Path) -> None:
    record = Record()
    settings = settings_of(server, tmp_path, record, handler_timeout=0.1, max_retries=1)
    client = connect(settings.config.dsn)
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
    assert ("ordered", "TimeoutError") in record.runs
    assert ("late", "TimeoutError") in record.runs


async def late(ctx: Ctx) -> None:
    await asyncio.sleep(30)
