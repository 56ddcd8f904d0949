"""A blocked event loop is reported with the place where it is blocked."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from workerbase.process import loop_watchdog
from workerbase.process.loop_watchdog import LoopWatchdog


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watchdog, "MAX_LAG_S", 0.1)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_place_and_the_end_of_a_block_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    watchdog = LoopWatchdog(0.05)
    watchdog.start()
    watchdog.beat()

    def blocking_call() -> None:
        wait_for(lambda: "has been blocked" in caplog.text)

    blocking_call()
    assert "in blocking_call" in caplog.text
    assert "asyncio.to_thread" in caplog.text
    watchdog.beat()
    wait_for(lambda: "the event loop runs again" in caplog.text)
    watchdog.stop()
    assert len(caplog.records) == 2


def test_a_loop_that_turns_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = LoopWatchdog(0.05)
    watchdog.start()
    for _ in range(20):
        watchdog.beat()
        time.sleep(0.02)
    watchdog.stop()
    assert caplog.records == []


def test_a_stopped_watchdog_reports_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = LoopWatchdog(0.01)
    watchdog.start()
    watchdog.stop()
    time.sleep(0.3)
    assert caplog.records == []
