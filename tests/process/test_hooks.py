"""Hooks of base and project, run by arq's own worker: health file, lifespan, job hooks."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Worker, create_worker, func
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import BaseArqWorkerSettings, WorkerConfig, base_shutdown, base_startup
from workerbase.broker.client import connect
from workerbase.errors import ConfigError
from workerbase.jobs import LeasedJobs
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.streams import EventRouter, Streams
from workerbase.task_utils import get
from workerbase.testing import Server
from workerbase.types import Ctx

# arq 0.28 closes its client with a deprecated method of redis-py 5.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


async def hello(ctx: Ctx, name: str = "you") -> str:
    return f"hello {name}"


def ctx_for(config: WorkerConfig) -> tuple[Ctx, WorkerContext]:
    """Return a ctx as a worker with this configuration has it."""
    worker = WorkerContext(settings=ResolvedSettings(config=config))
    return {"worker": worker}, worker


async def run_burst(settings: type, redis: ArqRedis, *jobs: str) -> Worker:
    """Run arq's worker on the jobs until the queue is empty."""
    for job in jobs:
        await redis.enqueue_job(job, _queue_name="arq:queue")
    worker = create_worker(settings, burst=True, handle_signals=False)
    await worker.main()
    await worker.close()
    return worker


async def test_hooks_of_every_kind_of_method_run_between_those_of_the_base(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig], tmp_path: Path
) -> None:
    calls: list[object] = []
    health_file = tmp_path / "healthy"

    class Parent(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (hello,)

        @staticmethod
        async def on_startup(_: Ctx) -> None:
            calls.append(("startup", health_file.exists()))

        @classmethod
        async def on_shutdown(cls, _: Ctx) -> None:
            calls.append(("shutdown", cls.__name__, health_file.exists()))

        async def on_job_start(ctx: Ctx) -> None:  # noqa: N805
            calls.append(("start", ctx["job_try"]))

        @staticmethod
        async def on_job_end(_: Ctx) -> None:
            calls.append("end")

        @staticmethod
        async def after_job_end(_: Ctx) -> None:
            calls.append("after")

    class Settings(Parent):
        pass

    worker = await run_burst(Settings, redis, "hello")

    assert worker.jobs_complete == 1
    assert calls == [
        ("startup", True), ("start", 1), "end", "after", ("shutdown", "Settings", True),
    ]  # fmt: skip
    assert not health_file.exists()


async def test_a_job_hook_that_raises_does_not_end_the_worker(
    server: Server,
    redis: ArqRedis,
    config_for: Callable[..., WorkerConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (hello,)

        @staticmethod
        async def on_job_start(_: Ctx) -> None:
            raise RuntimeError("broken hook")

    worker = await run_burst(Settings, redis, "hello", "hello")

    assert worker.jobs_complete == 2
    assert "on_job_start of job" in caplog.text
    assert "broken hook" in caplog.text


async def test_a_project_hook_may_call_the_base_hook_itself(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig], tmp_path: Path
) -> None:
    started: list[bool] = []

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)

        @staticmethod
        async def on_startup(ctx: Ctx) -> None:
            await base_startup(ctx)
            started.append((tmp_path / "healthy").exists())

        @staticmethod
        async def on_shutdown(ctx: Ctx) -> None:
            await base_shutdown(ctx)
            started.append((tmp_path / "healthy").exists())

    await run_burst(Settings, redis)

    assert started == [True, False]


async def test_startup_and_shutdown_can_run_twice(
    server: Server, config_for: Callable[..., WorkerConfig], tmp_path: Path
) -> None:
    ctx, worker = ctx_for(config_for(server))
    before = asyncio.all_tasks()
    await base_startup(ctx)
    first = worker.heartbeat
    assert first is not None
    await base_startup(ctx)
    assert worker.heartbeat is first
    assert (tmp_path / "healthy").exists()
    await base_shutdown(ctx)
    await base_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()
    assert asyncio.all_tasks() == before
    await base_startup(ctx)
    assert (tmp_path / "healthy").exists()
    await base_shutdown(ctx)


async def test_shutdown_without_startup_removes_a_file_that_was_left(
    config_for: Callable[..., WorkerConfig], server: Server, tmp_path: Path
) -> None:
    (tmp_path / "healthy").write_text("left by a process that was killed")
    ctx, _ = ctx_for(config_for(server))
    await base_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()


async def test_shutdown_removes_the_health_file_where_redis_is_gone_and_the_hook_raises(
    own_server: Server, config_for: Callable[..., WorkerConfig], tmp_path: Path
) -> None:
    class Settings(BaseArqWorkerSettings):
        config = config_for(own_server)

        @staticmethod
        async def on_shutdown(ctx: Ctx) -> None:
            redis = ctx["redis"]
            assert isinstance(redis, ArqRedis)
            await redis.ping()

    assert Settings.on_startup is not None
    assert Settings.on_shutdown is not None
    config = resolved_settings(Settings).config
    redis = connect(config.dsn)
    ctx: Ctx = {**Settings.ctx, "redis": redis}
    await Settings.on_startup(ctx)
    assert (tmp_path / "healthy").exists()
    own_server.kill()
    with pytest.raises(RedisConnectionError):
        await Settings.on_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()
    await redis.aclose(close_connection_pool=True)


async def test_the_lifespan_makes_what_tasks_need_and_cleans_it_up_once(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    seen: list[object] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Ctx) -> AsyncIterator[str]:
        seen.append("open")
        yield "resource"
        seen.append("close")

    async def use(ctx: Ctx) -> None:
        seen.append(ctx["state"])

    life = lifespan

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (func(use, name="use"),)
        lifespan = life

    await run_burst(Settings, redis, "use")
    assert seen == ["open", "resource", "close"]


async def test_the_health_file_tells_which_job_is_overdue_and_when(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig], tmp_path: Path
) -> None:
    beats: list[dict[str, Any]] = []

    async def long(ctx: Ctx) -> None:
        heartbeat = get(ctx, "worker", WorkerContext).heartbeat
        assert heartbeat is not None
        heartbeat.beat()
        beats.append(json.loads((tmp_path / "healthy").read_text()))

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (func(long, name="long", timeout=100),)

    await redis.enqueue_job("long", _job_id="j1")
    started = time.monotonic()
    await run_burst(Settings, redis)
    (beat,) = beats
    assert beat["overdue"] == "job j1"
    assert started + 100 <= beat["overdue_at"] <= time.monotonic() + 100 + 60


async def test_arqs_own_command_warns_that_services_do_not_run(
    server: Server,
    redis: ArqRedis,
    config_for: Callable[..., WorkerConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        services = (Streams(EventRouter()), LeasedJobs())

    await run_burst(Settings, redis)
    assert "arq's own command runs jobs only" in caplog.text
    assert "`run` command to run streams, jobs" in caplog.text


async def test_a_hook_may_be_called_with_a_ctx_made_by_hand(tmp_path: Path) -> None:
    ctx: Ctx = {}
    await base_startup(ctx)
    assert (tmp_path / "healthy").exists()
    assert isinstance(ctx["worker"], WorkerContext)
    await base_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()


async def test_a_health_file_that_cannot_be_written_is_an_error() -> None:
    ctx, _ = ctx_for(WorkerConfig(health_file="/no/such/folder/healthy"))
    with pytest.raises(ConfigError, match="set WORKER_HEALTH_FILE"):
        await base_startup(ctx)


async def test_the_lifespan_is_left_although_its_clean_up_fails(tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def broken(_: Ctx) -> AsyncIterator[None]:
        yield
        raise RuntimeError("broken clean-up")

    settings = ResolvedSettings(config=WorkerConfig.load(), lifespan=broken)
    ctx: Ctx = {"worker": WorkerContext(settings=settings)}
    await base_startup(ctx)
    with pytest.raises(RuntimeError, match="broken clean-up"):
        await base_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()
    await base_shutdown(ctx)
