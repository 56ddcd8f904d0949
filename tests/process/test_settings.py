"""What arq and the runtime see of a class that inherits from BaseArqWorkerSettings."""

import asyncio
import pickle
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from arq.worker import Worker, create_worker
from workerbase import BaseArqWorkerSettings, WorkerConfig, base_shutdown, base_startup
from workerbase.engine.retry_policy import RetryPolicy
from workerbase.errors import ConfigError, SettingsError
from workerbase.process.service import WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.types import Ctx

REQUEUE = "requeue_to_stream"


async def hello(ctx: Ctx, name: str = "you") -> str:
    return f"hello {name}"


def worker_of(settings: type) -> Worker:
    """Create the worker as the arq command does."""
    # arq's own loop detection needs a current loop on old Pythons.
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    try:
        return create_worker(settings, handle_signals=False)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


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


def test_the_environment_counts_where_the_class_sets_nothing(
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

    config = resolved_settings(Settings).config
    assert Settings.config == config
    assert config.max_retries == 3
    assert config.queue_name == "b"
    assert worker_of(Settings).queue_name == "b"


def test_the_typed_value_has_what_the_class_and_its_bases_set() -> None:
    class Company(BaseArqWorkerSettings):
        config = WorkerConfig(max_retries=2, retry_backoff=3, retry_backoff_max=4)
        permanent_errors = (KeyError,)

    class Settings(Company):
        transient_errors = (OSError,)
        keep_result_forever = True
        log_results = True
        health_check_interval = timedelta(seconds=3)
        health_check_key = "health"
        queue_read_limit = 7

    settings = resolved_settings(Settings)
    assert settings.retry_policy == RetryPolicy(2, 3, 4, (KeyError,), (OSError,))
    assert (settings.name, settings.package) == ("Settings", "test_settings")
    assert (settings.keep_result_forever, settings.log_results) == (True, True)
    assert (settings.health_check_interval, settings.health_check_key) == (3, "health")
    worker = worker_of(Settings)
    assert worker.queue_read_limit == 7
    assert worker.health_check_key == "health"


def test_ctx_of_the_class_reaches_every_worker_and_names_the_worker() -> None:
    class Settings(BaseArqWorkerSettings):
        ctx: ClassVar[Ctx] = {"shop": "ours"}

    worker = worker_of(Settings)
    assert worker.ctx["shop"] == "ours"
    context = worker.ctx["worker"]
    assert isinstance(context, WorkerContext)
    assert context.settings is resolved_settings(Settings)
    assert context.runs_services is False
    with pytest.raises(RuntimeError, match="there is no Redis client yet"):
        _ = context.client
    with pytest.raises(RuntimeError, match="there is no Redis client yet"):
        context.connect()


def test_defining_a_class_removes_no_health_file(tmp_path: Path) -> None:
    (tmp_path / "healthy").write_text("of a worker that died")

    class Settings(BaseArqWorkerSettings):
        config = WorkerConfig.load()

    assert (tmp_path / "healthy").exists()


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
    with pytest.raises(SettingsError, match=r"Odd\.xyzzy is not a worker setting; start its name"):
        type("Odd", (BaseArqWorkerSettings,), {"xyzzy": 1})


def test_a_mistyped_setting_in_a_mixin_is_refused_with_the_name_of_the_mixin() -> None:
    class Mixin:
        max_job = 1

    with pytest.raises(SettingsError, match=r"Mixin\.max_job .*'max_jobs'"):
        type("Settings", (Mixin, BaseArqWorkerSettings), {})


def test_max_tries_means_max_retries_and_is_refused_beside_another_value() -> None:
    class Settings(BaseArqWorkerSettings):
        max_tries = 3

    assert worker_of(Settings).max_tries == 3
    assert Settings.max_retries == 3
    with pytest.raises(SettingsError, match="max_tries"):
        type("Both", (BaseArqWorkerSettings,), {"max_tries": 3, "max_retries": 4})


def test_the_nearest_class_decides_whichever_name_it_uses() -> None:
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


def test_a_single_function_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(SettingsError, match="a comma missing"):
        type("Settings", (BaseArqWorkerSettings,), {"functions": staticmethod(hello)})


@pytest.mark.parametrize("name", ["redis_settings", "redis_pool"])
def test_a_redis_that_only_arq_would_use_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is not read by .* set WORKER_REDIS_DSN"):
        type("Settings", (BaseArqWorkerSettings,), {name: object()})


def test_the_former_router_attribute_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(SettingsError, match=r"write services = \(Streams\(router\),\)"):
        type("Settings", (BaseArqWorkerSettings,), {"router": object()})


@pytest.mark.parametrize("value", [object(), BaseArqWorkerSettings, "Settings", None])
def test_only_a_resolved_subclass_has_a_typed_value(value: object) -> None:
    with pytest.raises(SettingsError, match="is not a subclass of BaseArqWorkerSettings"):
        resolved_settings(value)


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
