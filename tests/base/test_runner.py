"""`serve` and `run` by themselves; what signals do to a process is in `tests/process`."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx, runner
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.errors import ConfigError

ConfigFor = Callable[..., WorkerConfig]


def settings_of(config: WorkerConfig, **more: Any) -> type[BaseArqWorkerSettings]:
    return type("Settings", (BaseArqWorkerSettings,), {"config": config, **more})


async def test_settings_that_are_none_are_told() -> None:
    class Plain:
        config = None
        __name__ = "Plain"

    with pytest.raises(ConfigError, match="Plain is not a subclass of BaseArqWorkerSettings"):
        await runner.serve(Plain)  # type: ignore[arg-type]


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


class LeftError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise LeftError

    monkeypatch.setattr(os, "_exit", leave)
    return codes


async def test_the_first_signal_drains_and_the_second_one_leaves(
    tmp_path: Path, leaving: list[int]
) -> None:
    stop, health = asyncio.Event(), tmp_path / "healthy"
    health.write_text("{}")
    runner._on_signal(signal.SIGTERM, stop, health)
    assert stop.is_set()
    assert health.exists()
    with pytest.raises(LeftError):
        runner._on_signal(signal.SIGTERM, stop, health)
    assert leaving == [128 + signal.SIGTERM]
    assert not health.exists()


def test_what_ignores_its_cancellation_is_left_behind(
    leaving: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LeftError):
        runner._leave(3)
    assert leaving == [3]
    assert "it is left behind" in caplog.text


def test_without_uvloop_it_runs_on_the_loop_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert runner._loop_factory() is None


def test_a_failed_start_is_told_and_makes_the_exit_code(
    server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(server, health_file="/no/such/folder/healthy")
    assert runner.run(lambda: settings_of(config)) == 1
    assert "cannot write the health file /no/such/folder/healthy" in caplog.text

    async def broken(ctx: Ctx) -> None:
        raise RuntimeError("no stock")

    with pytest.raises(RuntimeError, match="no stock"):
        runner.run(lambda: settings_of(config_for(server), on_startup=broken))
