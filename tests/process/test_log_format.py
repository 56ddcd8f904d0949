"""Plain log lines: bounded, and none begins with what a message or an error brought along."""

import io
import logging
from collections.abc import Iterator

import pytest
from workerbase import WorkerConfig
from workerbase.cli import terminal
from workerbase.engine.text import MAX_LOGGED
from workerbase.process.log_format import PlainFormatter

HOSTILE = "first\n2026-01-01 INFO forged\x1b[31m\x00\u202eend"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("tests.plain")
    logger.addHandler(handler)
    yield logger, output
    logger.removeHandler(handler)


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("args", [(HOSTILE,), ("%s", HOSTILE), ("%s", ValueError(HOSTILE))])
def test_a_message_is_one_line(
    log: tuple[logging.Logger, io.StringIO], args: tuple[object, ...]
) -> None:
    logger, output = log
    logger.error(*args)
    assert output.getvalue() == ("ERROR first 2026-01-01 INFO forged\\x1b[31m\\x00\\u202eend\n")


def test_an_error_of_any_size_is_bounded_with_its_traceback(
    log: tuple[logging.Logger, io.StringIO], caplog: pytest.LogCaptureFixture
) -> None:
    logger, output = log
    try:
        fail("x" * 50_000_000)
    except ValueError:
        logger.exception("it failed: %s", "y" * 50_000_000)
    text = output.getvalue()
    assert len(text) < 2 * MAX_LOGGED
    assert ", in fail\n" in text
    # The record is that of other handlers, too.
    (record,) = caplog.records
    assert isinstance(record.args, tuple)


def test_the_run_command_logs_in_this_way(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        terminal.setup_logging(WorkerConfig())
        logging.getLogger("tests.plain").error(HOSTILE)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert len(capsys.readouterr().err.splitlines()) == 1
