"""`serve` and `run` by themselves; `test_run_command` sends signals to a real process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx
from workerbase.config import WorkerConfig
from workerbase.errors import SettingsError
from workerbase.process import runner
from workerbase.process.service import ResolvedSettings, Service
from workerbase.process.settings import resolved_settings
from workerbase.testing.redis_server import Server

ConfigFor = Callable[..., WorkerConfig]


def settings_of(config: WorkerConfig, **more: Any) -> ResolvedSettings:
    return resolved_settings(type("Settings", (BaseArqWorkerSettings,), {"config": config, **more}))


def test_a_class_that_is_not_a_settings_class_is_refused() -> None:
    class Plain:
        config = None
        __name__ = "Plain"

    with pytest.raises(SettingsError, match=r"Plain.* is not a subclass of BaseArqWorkerSettings"):
        resolved_settings(Plain)


async def test_it_runs_outside_the_main_thread_without_signals_or_streams(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server)

    def in_a_thread() -> None:
        async def serve() -> None:
            stop = asyncio.Event()
            serving = asyncio.create_task(runner.serve(settings_of(config), stop))
            await until(lambda: '"ready"' in read(config.health_file))
            stop.set()
            await serving

        asyncio.run(serve())

    await asyncio.to_thread(in_a_thread)
    assert read(config.health_file) == ""


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class ExitedError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def exit_now(code: int) -> None:
        codes.append(code)
        raise ExitedError

    monkeypatch.setattr(os, "_exit", exit_now)
    return codes


async def test_the_first_signal_drains_and_the_second_one_exits(
    tmp_path: Path, exits: list[int]
) -> None:
    stop, health = asyncio.Event(), tmp_path / "healthy"
    health.write_text("{}")
    runner._on_signal(signal.SIGTERM, stop, health)
    assert stop.is_set()
    assert health.exists()
    with pytest.raises(ExitedError):
        runner._on_signal(signal.SIGTERM, stop, health)
    assert exits == [128 + signal.SIGTERM]
    assert not health.exists()


def test_a_process_exits_although_a_task_ignores_its_cancellation(
    exits: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExitedError):
        runner._exit(3)
    assert exits == [3]
    assert "ignored cancellation; exiting anyway" in caplog.text


def test_without_uvloop_it_runs_on_the_loop_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert runner._loop_factory() is None


def test_a_failed_start_is_logged_and_sets_the_exit_code(
    server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(server, health_file="/no/such/folder/healthy")
    assert runner.run(settings_of(config)) == 1
    assert "cannot write the health file /no/such/folder/healthy" in caplog.text

    async def broken(ctx: Ctx) -> None:
        raise RuntimeError("no stock")

    with pytest.raises(RuntimeError, match="no stock"):
        runner.run(settings_of(config_for(server), on_startup=broken))


async def test_a_lifespan_is_left_in_the_task_and_context_that_entered_it(
    server: Server, config_for: ConfigFor
) -> None:
    """Task groups demand it; and services inherit the context variables that it sets."""
    stop, tenant = asyncio.Event(), ContextVar("tenant", default="nobody")
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan(ctx: Ctx) -> AsyncIterator[None]:
        seen.append(asyncio.current_task())
        tenant.set("mine")
        await asyncio.sleep(0)
        yield
        seen.extend((asyncio.current_task(), tenant.get()))

    class Look(Service):
        name = "look"

        async def serve(self, stop: asyncio.Event, drain: float) -> None:
            seen.append(tenant.get())
            stop.set()

    settings = settings_of(config_for(server), lifespan=lifespan, services=(Look(),))
    await asyncio.create_task(runner.serve(settings, stop))

    entered, service, left, context = seen
    assert entered is left
    assert (service, context) == ("mine", "mine")
