"""A blocked event loop is reported with the place where it is blocked, and for how long it was."""

import asyncio
import logging
import re
import time
from collections.abc import Callable

import pytest
from workerbase.process import loop_watchdog
from workerbase.process.loop_watchdog import LoopWatchdog


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watchdog, "MAX_LAG_S", 0.2)
    monkeypatch.setattr(loop_watchdog, "PERIOD_S", 0.05)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_the_place_and_the_true_duration_of_a_block_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    watchdog = LoopWatchdog()
    watchdog.start()
    await asyncio.sleep(1.0)  # not blocked, and no part of what is reported

    def blocking_call() -> None:
        wait_for(lambda: "has been blocked" in caplog.text)

    began = time.monotonic()
    blocking_call()
    await asyncio.to_thread(wait_for, lambda: "the event loop runs again" in caplog.text)
    took = time.monotonic() - began
    watchdog.stop()
    assert "in blocking_call" in caplog.text
    assert "asyncio.to_thread" in caplog.text
    assert len(caplog.records) == 2
    reported = [float(text) for text in re.findall(r"(?:for|after) ([\d.]+) s", caplog.text)]
    assert len(reported) == 2
    assert all(0.1 < seconds <= took + 0.05 for seconds in reported), (reported, took)


async def test_a_loop_that_turns_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = LoopWatchdog()
    watchdog.start()
    await asyncio.sleep(0.5)
    watchdog.stop()
    assert caplog.records == []


async def test_a_stopped_watchdog_reports_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = LoopWatchdog()
    watchdog.start()
    watchdog.stop()
    time.sleep(0.5)  # noqa: ASYNC251 - what would be reported
    assert caplog.records == []


def test_a_closed_loop_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def start() -> None:
        LoopWatchdog().start()

    asyncio.run(start())
    time.sleep(0.5)
    assert caplog.records == []
