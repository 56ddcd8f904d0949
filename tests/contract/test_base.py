"""The contract of the base, name by name, as the design states it."""

import ast
import asyncio
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import workerbase
from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.worker import Worker, create_worker, func
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import (
    CORE_FUNCTIONS,
    BaseArqService,
    BaseArqWorkerSettings,
    WorkerConfig,
    base_shutdown,
    base_startup,
    requeue_to_stream,
    task,
)
from workerbase.broker import codec, keys
from workerbase.broker.client import connect
from workerbase.config import DEFAULT_HEALTH_FILE
from workerbase.delivery import ArqAdapter
from workerbase.errors import ConfigError, SettingsError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.process import probe
from workerbase.process.requeue import RequeueError
from workerbase.testing import Server
from workerbase.types import Ctx, RedisClient

BASE = Path(workerbase.__file__).parent
ConfigFor = Callable[..., WorkerConfig]

# arq 0.28 closes its client with a deprecated method of redis-py 5.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


async def my_task(ctx: Ctx) -> None: ...


def worker_of(settings: type) -> Worker:
    """Create the worker as the arq command does."""
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    try:
        return create_worker(settings, handle_signals=False)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# --- modules and names


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "base",
            "BaseArqWorkerSettings BaseArqService base_startup base_shutdown CORE_FUNCTIONS",
        ),
        (
            "base",
            "requeue_to_stream",
        ),
        ("config", "WorkerConfig"),
        ("task_utils", "task enqueue_in enqueue_at enqueue_once get get_redis get_state job_info"),
        ("types", "Ctx JobResult Dependency"),
        ("delivery.arq", "ArqAdapter"),
    ],
)
def test_every_component_is_where_the_design_puts_it(module: str, names: str) -> None:
    found = importlib.import_module(f"workerbase.{module}")
    for name in names.split():
        assert getattr(found, name) is not None


def test_what_a_project_builds_on_is_exported() -> None:
    assert set(workerbase.__all__) >= {
        "BaseArqWorkerSettings", "BaseArqService", "base_startup", "base_shutdown",
        "requeue_to_stream", "CORE_FUNCTIONS", "WorkerConfig", "Ctx", "task",
    }  # fmt: skip
    for name in workerbase.__all__:
        assert getattr(workerbase, name) is not None


def test_the_contract_can_be_read_in_one_sitting() -> None:
    source = (BASE / "base.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    defined = [n.name for n in ast.parse(source).body if hasattr(n, "name")]
    assert defined == [
        "base_startup", "base_shutdown", "requeue_to_stream", "BaseArqWorkerSettings",
        "BaseArqService",
    ]  # fmt: skip


def test_the_top_level_holds_the_contract_and_packages() -> None:
    modules = {path.stem for path in BASE.glob("*.py")}
    contract = {
        "base",
        "config",
        "environment",
        "errors",
        "former_names",
        "monitor",
        "task_utils",
        "types",
    }
    assert modules == {"__init__", *contract}
    packages = {path.name for path in BASE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert all((BASE / name / "__init__.py").exists() for name in packages)


# --- BaseArqWorkerSettings


def test_a_subclass_with_functions_alone_has_the_limits_and_hooks_of_the_design() -> None:
    class Settings(BaseArqWorkerSettings):
        functions = CORE_FUNCTIONS + [my_task]  # noqa: RUF005

    worker = worker_of(Settings)
    assert (worker.max_jobs, worker.job_timeout_s, worker.max_tries) == (20, 60, 5)
    assert worker.on_startup is base_startup
    assert worker.on_shutdown is base_shutdown
    assert set(worker.functions) == {"requeue_to_stream", "my_task"}


def test_the_defaults_are_visible_in_the_class() -> None:
    own = vars(BaseArqWorkerSettings)
    assert (own["max_jobs"], own["job_timeout"], own["max_retries"]) == (20, 60, 5)
    assert own["on_startup"] is base_startup
    assert own["on_shutdown"] is base_shutdown
    assert own["functions"] is CORE_FUNCTIONS


def test_settings_are_inherited_over_several_levels_and_from_mixins() -> None:
    class Mixin:
        max_jobs = 3

    class Company(BaseArqWorkerSettings):
        max_retries = 2

    class Settings(Mixin, Company):
        functions = (my_task,)

    worker = worker_of(Settings)
    assert (worker.max_jobs, worker.job_timeout_s, worker.max_tries) == (3, 60, 2)


def test_a_mistyped_setting_is_refused_with_the_near_match() -> None:
    with pytest.raises(SettingsError, match=r"max_job .*did you mean 'max_jobs'"):
        type("Settings", (BaseArqWorkerSettings,), {"max_job": 3})


# --- BaseArqService


def test_the_service_has_the_methods_of_the_design() -> None:
    for name in ("init", "close", "enqueue_job", "__aenter__", "__aexit__"):
        assert inspect.iscoroutinefunction(getattr(BaseArqService, name))
    parameters = inspect.signature(BaseArqService.enqueue_job).parameters
    assert [p.kind.name for p in parameters.values()] == [
        "POSITIONAL_OR_KEYWORD", "POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL", "VAR_KEYWORD",
    ]  # fmt: skip


async def test_the_service_enqueues_from_worker_to_worker(
    server: Server, redis: ArqRedis, config_for: ConfigFor
) -> None:
    async with BaseArqService(config_for(server)) as service:
        job = await service.enqueue_job("my_task", 1, key="x", _job_id="j1")
        assert job is not None
        assert await service.enqueue_job("my_task", _job_id="j1") is None
    assert await redis.zrange("arq:queue", 0, -1) == [b"j1"]


# --- the hooks and the health file


def test_the_health_file_is_where_probes_of_the_design_look() -> None:
    assert DEFAULT_HEALTH_FILE == "/tmp/arq_worker_healthy"
    assert WorkerConfig.model_fields["health_file"].default == DEFAULT_HEALTH_FILE


async def test_the_hooks_create_and_remove_the_health_file(tmp_path: Path) -> None:
    path, ctx = tmp_path / "healthy", dict[str, object]()
    for _ in range(2):
        await base_startup(ctx)
        assert path.is_file()
    for _ in range(2):
        await base_shutdown(ctx)
        assert not path.exists()


async def test_shutdown_removes_the_health_file_although_redis_is_gone(
    own_server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    class Settings(BaseArqWorkerSettings):
        config = config_for(own_server)

    assert Settings.config is not None
    redis = connect(Settings.config.dsn)
    ctx: Ctx = {**Settings.ctx, "redis": redis}
    await base_startup(ctx)
    own_server.kill()
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    await base_shutdown(ctx)
    assert not (tmp_path / "healthy").exists()
    await redis.aclose(close_connection_pool=True)


def test_the_health_file_of_a_killed_process_counts_as_unhealthy(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, signal\n"
        "from workerbase import base_startup\n"
        "async def main():\n"
        "    await base_startup({})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(BASE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode != 0
    assert (tmp_path / "healthy").is_file()
    assert probe.check(str(tmp_path / "healthy"), ready=False) != ""


# --- requeue_to_stream and the dead-letter queue


async def test_five_deliveries_in_all_and_then_the_dead_letter_queue(redis: ArqRedis) -> None:
    payload: dict[str, Any] = {"type": "order.placed", "data": "{}"}
    for delivery in range(1, 6):
        ctx: Ctx = {"redis": redis, "job_id": f"j{delivery}", "job_try": 1}
        await requeue_to_stream(ctx, "orders", payload)
        if delivery < 5:
            assert await redis.xlen("orders") == delivery
            (_, fields), *_ = await redis.xrevrange("orders", count=1)
            payload = {codec.decode(n): codec.decode(v) for n, v in fields.items()}
            assert payload["_retries"] == str(delivery)
    assert await redis.xlen("orders") == 4
    ((_, dead),) = await redis.xrange("orders:dlq")
    assert dead[b"_retries"] == b"5"
    assert dead[b"_original_stream"] == b"orders"
    assert {b"_failed_at", b"_error", b"_original_id"} <= dead.keys()


async def test_running_twice_for_one_failure_adds_the_message_once(redis: ArqRedis) -> None:
    ctx: Ctx = {"redis": redis, "job_id": "j1", "job_try": 1}
    for _ in range(2):
        await requeue_to_stream(ctx, "orders", {"type": "x", "_entry_id": "1-0"})
    assert await redis.xlen("orders") == 1


@pytest.mark.parametrize("payload", [{}, {"_retries": "x"}])
async def test_it_is_never_silent(
    redis: ArqRedis, payload: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RequeueError):
        await requeue_to_stream({}, "orders", payload)
    await requeue_to_stream({"redis": redis}, "orders", payload)
    assert "cannot go back to orders and is dead-lettered" in caplog.text
    assert await redis.xlen("orders:dlq") == 1


def test_the_dead_letter_queue_has_its_name_by_convention() -> None:
    assert keys.dlq("orders") == "orders:dlq"


async def test_a_replayed_dead_letter_goes_back_to_its_stream(
    redis: ArqRedis, client: RedisClient
) -> None:
    ctx: Ctx = {"redis": redis, "job_id": "j1", "job_try": 1}
    await requeue_to_stream(ctx, "orders", {"type": "x", "_retries": 4})
    queue = DeadLetterQueue.of_source(client, "orders")
    (dead,) = [entry async for entry in queue.scan()]
    assert await queue.replay(dead, 3) == "replayed"
    assert (await redis.xlen("orders"), await redis.xlen("orders:dlq")) == (1, 0)


# --- CORE_FUNCTIONS


def test_core_functions_is_a_list_that_every_worker_has() -> None:
    assert isinstance(CORE_FUNCTIONS, list)
    assert [f.name for f in CORE_FUNCTIONS] == ["requeue_to_stream"]  # type: ignore[union-attr]

    class Without(BaseArqWorkerSettings):
        functions = (my_task,)

    assert "requeue_to_stream" in worker_of(Without).functions


# --- WorkerConfig


def test_a_wrong_value_stops_the_start_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_JOB_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="WORKER_JOB_TIMEOUT"):
        type("Settings", (BaseArqWorkerSettings,), {"functions": (my_task,)})


# --- tasks


async def test_the_last_failed_attempt_is_recorded_as_failed(
    server: Server, redis: ArqRedis, config_for: ConfigFor
) -> None:
    @task(max_retries=2, backoff=0.0)
    async def fails(ctx: Ctx) -> None:
        raise ValueError("no stock")

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (fails,)

    job = await redis.enqueue_job(fails.name)
    assert job is not None
    worker = create_worker(Settings, burst=True, handle_signals=False)
    await worker.main()
    await worker.close()
    result = await job.result_info()
    assert result is not None
    assert (result.success, result.job_try) == (False, 2)
    assert "no stock" in str(result.result)


def test_a_task_can_be_a_cron_job() -> None:
    nightly = task(timeout=timedelta(minutes=5))(my_task).cron(hour=3)
    assert isinstance(nightly, CronJob)
    assert nightly.next_run is None
    nightly.calculate_next(datetime(2026, 1, 1, tzinfo=UTC))
    assert nightly.next_run is not None


# --- the application's side


async def test_the_adapter_enqueues_sync_and_async_without_the_settings_of_the_worker(
    server: Server, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_REDIS_DSN", server.dsn)
    async with ArqAdapter() as jobs:
        assert jobs.enqueue_sync("my_task")
        assert await asyncio.to_thread(jobs.enqueue_sync, "my_task")
        assert await jobs.enqueue("my_task")
    assert await redis.zcard("arq:queue") == 3


def test_functions_of_arq_are_functions_of_a_worker() -> None:
    settings = type("Settings", (BaseArqWorkerSettings,), {"functions": [func(my_task, name="x")]})
    assert set(worker_of(settings).functions) == {"requeue_to_stream", "x"}
