"""What arq itself sees of a settings class that inherits from BaseArqWorkerSettings."""

import asyncio
import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Worker, create_worker, func
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import BaseArqWorkerSettings, WorkerConfig, base_shutdown, base_startup, task
from workerbase.base import CORE_FUNCTIONS
from workerbase.connect import connect
from workerbase.devtools.server import Server
from workerbase.errors import ConfigError, SettingsError
from workerbase.events import Event, EventContext, EventRouter
from workerbase.health import Heartbeat
from workerbase.types import Ctx

# arq 0.28 closes its client with a deprecated method of redis-py 5.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

REQUEUE = "requeue_to_stream"


async def hello(ctx: Ctx, name: str = "you") -> str:
    return f"hello {name}"


@task(max_retries=9, timeout=4)
async def careful(ctx: Ctx) -> None: ...


def worker_of(settings: type) -> Worker:
    """What the arq CLI makes of the class."""
    # arq's own loop detection needs a current loop on old Pythons.
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    try:
        return create_worker(settings, handle_signals=False)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# --- inheritance


def test_a_subclass_with_functions_alone_gets_the_limits_and_hooks_of_the_base() -> None:
    class Settings(BaseArqWorkerSettings):
        functions = (hello,)

    worker = worker_of(Settings)

    assert worker.max_jobs == 20
    assert worker.job_timeout_s == 60
    assert worker.max_tries == 5
    assert worker.on_startup is base_startup
    assert worker.on_shutdown is base_shutdown
    assert set(worker.functions) == {REQUEUE, "hello"}


def test_settings_pass_through_several_levels_and_mixins() -> None:
    class Slow:
        job_timeout = timedelta(minutes=3)
        max_jobs = 3

    class Company(BaseArqWorkerSettings):
        functions = (hello,)
        max_jobs = 7
        queue_name = "company"

    class Team(Slow, Company):
        pass

    class Special(Team):
        max_retries = 2

    class Same(Special):
        pass

    for settings in (Special, Same):
        worker = worker_of(settings)
        assert worker.job_timeout_s == 180
        assert worker.max_jobs == 3
        assert worker.queue_name == "company"
        assert worker.max_tries == 2
        assert "hello" in worker.functions


def test_a_class_that_sets_nothing_can_be_subclassed() -> None:
    class Company(BaseArqWorkerSettings):
        """Nothing yet."""

    class Settings(Company):
        functions = (hello,)

    assert "hello" in worker_of(Settings).functions


def test_a_subclass_overrides_what_its_parent_set() -> None:
    class Company(BaseArqWorkerSettings):
        max_jobs = 7
        functions = (hello,)

    class Settings(Company):
        max_jobs = 8
        functions = ()

    worker = worker_of(Settings)
    assert worker.max_jobs == 8
    assert set(worker.functions) == {REQUEUE}


def test_private_names_and_everything_arq_knows_are_allowed() -> None:
    class Settings(BaseArqWorkerSettings):
        _note = "ours"
        log_results = False
        allow_abort_jobs = True
        keep_result = 11
        poll_delay = 0.25

    worker = worker_of(Settings)
    assert worker.log_results is False
    assert worker.allow_abort_jobs is True
    assert worker.keep_result_s == 11
    assert worker.poll_delay_s == 0.25


def test_the_environment_counts_where_the_class_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_MAX_JOBS", "4")
    monkeypatch.setenv("WORKER_JOB_TIMEOUT", "9")
    monkeypatch.setenv("WORKER_MAX_RETRIES", "8")

    class Settings(BaseArqWorkerSettings):
        job_timeout = 10

    worker = worker_of(Settings)
    assert (worker.max_jobs, worker.job_timeout_s, worker.max_tries) == (4, 10, 8)


def test_the_resolved_config_agrees_with_the_class() -> None:
    class Settings(BaseArqWorkerSettings):
        config = WorkerConfig(queue_name="a", max_retries=9)
        max_retries = 3
        queue_name = "b"

    assert Settings.config is not None
    assert Settings.config.max_retries == 3
    assert Settings.config.queue_name == "b"
    assert worker_of(Settings).queue_name == "b"


# --- what is refused


@pytest.mark.parametrize(
    ("name", "near"),
    [("max_job", "max_jobs"), ("max_retrys", "max_retries"), ("on_start", "on_startup"),
     ("function", "functions"), ("retry_job", "retry_jobs"), ("cronjobs", "cron_jobs")],
)  # fmt: skip
def test_a_mistyped_setting_is_refused_and_the_near_match_named(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match=rf"Typo\.{name} .*did you mean '{near}'"):
        type("Typo", (BaseArqWorkerSettings,), {name: 1})


def test_an_unknown_setting_without_a_near_match_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Odd\.xyzzy is no worker setting; start its name"):
        type("Odd", (BaseArqWorkerSettings,), {"xyzzy": 1})


def test_a_mistyped_setting_in_a_mixin_is_refused_with_the_name_of_the_mixin() -> None:
    class Mixin:
        max_job = 1

    with pytest.raises(SettingsError, match=r"Mixin\.max_job .*'max_jobs'"):
        type("Settings", (Mixin, BaseArqWorkerSettings), {})


def test_max_tries_is_taken_as_max_retries_but_not_beside_another_value() -> None:
    class Settings(BaseArqWorkerSettings):
        max_tries = 3

    assert worker_of(Settings).max_tries == 3
    assert Settings.max_retries == 3
    with pytest.raises(SettingsError, match="max_tries"):
        type("Both", (BaseArqWorkerSettings,), {"max_tries": 3, "max_retries": 4})


def test_the_nearest_class_decides_whichever_name_of_the_tries_it_uses() -> None:
    parent = type("Parent", (BaseArqWorkerSettings,), {"max_tries": 3})
    child = type("Child", (parent,), {"max_retries": 7})
    grandchild = type("Grandchild", (child,), {"max_tries": 2})

    assert [worker_of(c).max_tries for c in (parent, child, grandchild)] == [3, 7, 2]


def test_a_value_out_of_bounds_names_the_class_and_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"Empty: max_jobs: Input should be greater than"):
        type("Empty", (BaseArqWorkerSettings,), {"max_jobs": 0})


@pytest.mark.parametrize(("name", "value"), [("max_jobs", 0), ("job_timeout", -1)])
def test_a_value_out_of_bounds_is_refused_with_the_name_of_class_and_setting(
    name: str, value: int
) -> None:
    with pytest.raises((SettingsError, ConfigError, ValueError), match=name):
        type("Settings", (BaseArqWorkerSettings,), {name: value})


def test_a_function_that_is_not_async_is_refused() -> None:
    def sync_task(ctx: Ctx) -> None:
        """Arq would fail when the first job runs."""

    with pytest.raises(SettingsError, match=r"sync_task.* is not an async function"):
        type("Settings", (BaseArqWorkerSettings,), {"functions": (sync_task,)})


def test_functions_that_are_one_function_are_refused() -> None:
    with pytest.raises(SettingsError, match="a comma missing"):
        type("Settings", (BaseArqWorkerSettings,), {"functions": staticmethod(hello)})


@pytest.mark.parametrize("name", ["redis_settings", "redis_pool"])
def test_a_redis_that_only_arq_would_use_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is not read by .* set WORKER_REDIS_DSN"):
        type("Settings", (BaseArqWorkerSettings,), {name: object()})


def test_a_deserializer_that_cannot_read_what_applications_write_is_refused() -> None:
    members = {"job_deserializer": staticmethod(pickle.loads)}
    with pytest.raises(SettingsError, match="job_deserializer does not read JSON"):
        type("Settings", (BaseArqWorkerSettings,), members)


def test_a_wrong_environment_is_refused_when_the_class_is_defined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_MAX_JOBS", "many")
    with pytest.raises(ConfigError, match="WORKER_MAX_JOBS"):
        type("Settings", (BaseArqWorkerSettings,), {"functions": (hello,)})


# --- core functions


def test_core_functions_are_there_once_however_they_are_given() -> None:
    class Settings(BaseArqWorkerSettings):
        functions = (*CORE_FUNCTIONS, hello)

    assert sorted(worker_of(Settings).functions) == ["hello", REQUEUE]


def test_two_tasks_of_one_name_are_refused_the_core_ones_among_them() -> None:
    for other in (func(hello, name="other"), func(hello, name=REQUEUE)):
        functions = (func(hello, name="other"), other)
        with pytest.raises(SettingsError, match="two tasks are named"):
            type("Settings", (BaseArqWorkerSettings,), {"functions": functions})


def test_requeueing_never_runs_out_of_tries_and_leaves_no_result() -> None:
    class Settings(BaseArqWorkerSettings):
        max_retries = 1

    function = worker_of(Settings).functions[REQUEUE]
    assert function.max_tries is not None
    assert function.max_tries > 10_000
    assert function.keep_result_s == 0


def test_the_options_of_the_task_decorator_reach_arq() -> None:
    class Settings(BaseArqWorkerSettings):
        functions = (careful,)

    function = worker_of(Settings).functions["careful"]
    assert function.max_tries == 9
    assert function.timeout_s == 4
    assert Settings.longest_timeout == 60


def test_a_cron_job_may_take_as_long_as_it_says() -> None:
    @task(timeout=3600)
    async def nightly(ctx: Ctx) -> None: ...

    class Settings(BaseArqWorkerSettings):
        cron_jobs = (nightly.cron(hour=3),)

    assert Settings.longest_timeout == 3600


# --- hooks, run by arq's own worker


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
    ctx: Ctx = {"config": config_for(server)}
    before = asyncio.all_tasks()
    await base_startup(ctx)
    first = ctx["heartbeat"]
    await base_startup(ctx)
    assert ctx["heartbeat"] is first
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
    await base_shutdown({"config": config_for(server)})
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

    assert Settings.config is not None
    assert Settings.on_startup is not None
    assert Settings.on_shutdown is not None
    redis = connect(Settings.config.location)
    ctx: Ctx = {"config": Settings.config, "redis": redis}
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
        heartbeat = ctx["heartbeat"]
        assert isinstance(heartbeat, Heartbeat)
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


async def test_plain_arq_says_that_it_does_not_read_the_streams(
    server: Server,
    redis: ArqRedis,
    config_for: Callable[..., WorkerConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Ping(Event, type="ping", stream="pings"):
        pass

    handlers = EventRouter()

    @handlers.on(Ping)
    async def on_ping(event: Ping, ctx: EventContext) -> None: ...

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        router = handlers

    await run_burst(Settings, redis)
    assert "plain arq does not read streams: pings wait" in caplog.text


# --- the real command line of arq

PROJECT = """
import asyncio
from workerbase import BaseArqWorkerSettings

async def work(ctx, text):
    return text.upper()

async def on_startup(ctx):
    print("project startup", flush=True)

class Company(BaseArqWorkerSettings):
    functions = (work,)
    max_retries = 3

class Settings(Company):
    on_startup = on_startup
    health_check_interval = 1
"""


@pytest.fixture
def arq_project(tmp_path: Path, server: Server) -> Callable[..., subprocess.Popen[str]]:
    """Start ``arq project.Settings`` with further arguments."""
    (tmp_path / "project.py").write_text(PROJECT)
    base = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"
    environment = os.environ | {"PYTHONPATH": str(base), "WORKER_REDIS_DSN": server.dsn}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "arq", "project.Settings", *arguments],
            cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


async def test_the_arq_command_runs_jobs_and_its_check_tells_a_live_worker_from_none(
    arq_project: Callable[..., subprocess.Popen[str]], server: Server, tmp_path: Path
) -> None:
    check = arq_project("--check")
    assert check.communicate(timeout=30)[0]
    assert check.returncode == 1

    client = connect(WorkerConfig(redis_dsn=SecretStr(server.dsn)).location)
    worker = arq_project()
    try:
        job = await client.enqueue_job("work", "done")
        assert job is not None
        assert await job.result(timeout=30, poll_delay=0.05) == "DONE"
        assert (tmp_path / "healthy").exists()
        check = arq_project("--check")
        output = check.communicate(timeout=30)[0]
        assert check.returncode == 0, output
    finally:
        worker.terminate()
        output = worker.communicate(timeout=30)[0]
        await client.aclose(close_connection_pool=True)
    assert "project startup" in output
    assert "2 functions: requeue_to_stream, work" in output
    assert not (tmp_path / "healthy").exists()


def test_the_arq_command_with_burst_ends_by_itself(
    arq_project: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    worker = arq_project("--burst")
    output = worker.communicate(timeout=60)[0]
    assert worker.returncode == 0, output
    assert not (tmp_path / "healthy").exists()


def test_the_arq_command_leaves_no_health_file_when_redis_goes_away(
    arq_project: Callable[..., subprocess.Popen[str]],
    own_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain arq ends without its shutdown hook then (its own limit); the file goes all the same."""
    project = tmp_path / "project.py"
    project.write_text(
        PROJECT
        + f"""
Settings.redis_settings.port = {own_server.port}
Settings.redis_settings.retry = None
"""
    )
    worker = arq_project()
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "healthy").exists() and time.monotonic() < deadline:
            assert worker.poll() is None
            time.sleep(0.02)
        own_server.kill()
        worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode != 0
    assert not (tmp_path / "healthy").exists()
