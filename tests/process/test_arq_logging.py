"""Arguments of jobs, which may be secret, stay out of the log of arq's own worker."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from arq.worker import func
from arqkit import running, settings_of
from waiting import until
from workerbase import WorkerConfig
from workerbase.process import arq_logging
from workerbase.testing import Server
from workerbase.types import Ctx

SECRET = "hunter2"
LOGGER = logging.getLogger("arq.worker")


@pytest.fixture(autouse=True)
def _without_filters() -> Iterator[None]:
    before, level = list(LOGGER.filters), LOGGER.level
    LOGGER.filters.clear()
    yield
    LOGGER.filters[:] = before
    LOGGER.setLevel(level)


async def login(ctx: Ctx, password: str) -> str:
    return f"welcome {password}"


async def logged(
    server: Server, config_for: Callable[..., WorkerConfig], caplog: Any, **more: Any
) -> str:
    caplog.set_level(logging.INFO)
    settings = settings_of(config_for(server), func(login, name="login"), **more)
    async with running(settings) as run:
        await run.client.enqueue_job("login", SECRET, _job_id="j1")
        await until(lambda: run.outcomes.outcomes)
    assert "j1:login" in caplog.text
    return str(caplog.text)


async def test_neither_arguments_nor_results_are_logged(
    server: Server, config_for: Callable[..., WorkerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    text = await logged(server, config_for, caplog)
    assert SECRET not in text
    assert "j1:login(…)" in text


async def test_they_are_logged_where_the_project_wants_it(
    server: Server, config_for: Callable[..., WorkerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    text = await logged(server, config_for, caplog, log_results=True)
    assert f"j1:login('{SECRET}')" in text
    assert f"welcome {SECRET}" in text


def test_at_level_debug_they_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    arq_logging.adapt(hides_arguments=True)
    arq_logging.adapt(hides_arguments=True)
    assert len(LOGGER.filters) == 1
    line = ("%6.2fs → %s(%s)%s", 0.1, "j1:login", SECRET, "")
    caplog.set_level(logging.INFO)
    LOGGER.setLevel(logging.INFO)
    LOGGER.info(*line)
    assert caplog.messages == ["  0.10s → j1:login(…)"]
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.info(*line)
    assert caplog.messages[-1] == f"  0.10s → j1:login({SECRET})"
    LOGGER.info("%6.2fs → %s(%s)%s", 0.1, "j1:ping", "", "")
    assert caplog.messages[-1] == "  0.10s → j1:ping()"


def test_errors_are_bounded_and_their_lines_indented(caplog: pytest.LogCaptureFixture) -> None:
    arq_logging.adapt(hides_arguments=True)
    try:
        raise_large()
    except ValueError as exc:
        LOGGER.exception("%6.2fs ! %s failed, %s: %s", 0.1, "j1:login", "ValueError", exc)  # noqa: TRY401
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert len(text) < 10_000
    assert all(line.startswith("  ") for line in text.splitlines())
    assert "in raise_large" in text


def raise_large() -> None:
    raise ValueError("first\n2026-01-01 INFO forged\x1b[31m" + "x" * 10_000_000)


def test_lines_about_a_job_carry_its_id_and_function(caplog: pytest.LogCaptureFixture) -> None:
    arq_logging.adapt(hides_arguments=True)
    caplog.set_level(logging.INFO)
    for ref in ("a:b:send", "cron:nightly"):
        LOGGER.info("%6.2fs → %s(%s)%s", 0.1, ref, "", "")
    LOGGER.info("recording health: %s", "j_complete=1")
    named = [(getattr(r, "job_id", ""), getattr(r, "function", "")) for r in caplog.records]
    assert named == [("a:b", "send"), ("", ""), ("", "")]


def test_the_job_that_requeues_is_logged_at_level_debug(caplog: pytest.LogCaptureFixture) -> None:
    arq_logging.adapt(hides_arguments=True)
    line = ("%6.2fs ← %s ● %s", 0.1, "requeue:orders:1-0:requeue_to_stream", "")
    caplog.set_level(logging.INFO, "arq.worker")
    LOGGER.info(*line)
    assert caplog.messages == []
    LOGGER.error("%6.2fs ! %s failed, %s", 0.1, "requeue:orders:1-0:requeue_to_stream", "")
    assert len(caplog.messages) == 1
    caplog.set_level(logging.DEBUG, "arq.worker")
    LOGGER.info(*line)
    assert caplog.records[-1].levelname == "DEBUG"


async def test_a_traceback_that_repeats_is_logged_once(
    server: Server, config_for: Callable[..., WorkerConfig], caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(ctx: Ctx, number: int) -> None:
        msg = f"order {number} not found"
        raise LookupError(msg)

    caplog.set_level(logging.INFO)
    settings = settings_of(config_for(server), func(fails, name="fails"))
    async with running(settings) as run:
        for number in range(5):
            await run.client.enqueue_job("fails", number)
        await until(lambda: len(run.outcomes.outcomes) == 5)
    assert caplog.text.count("! ") == 5
    assert caplog.text.count("Traceback (most recent call last)") == 1
