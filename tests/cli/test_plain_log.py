"""The log of a worker without telemetry is plain lines, without secrets and payloads."""

import logging
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from workerbase import WorkerConfig
from workerbase.cli.terminal import setup_logging


class Order(BaseModel):
    email: str


@pytest.fixture(autouse=True)
def _same_logging_afterwards() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        root.removeHandler(handler)  # setup_logging would close them
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_secrets_and_payloads_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(WorkerConfig())
    logger = logging.getLogger("shop")
    error = ValueError("refused by https://user:hunter2@bank")
    arguments = (Order(email="hunter2"), {"X-Api-Key": "hunter2", "n": 1})
    logger.error("%s with %s", *arguments, exc_info=error)
    logger.warning("session_id=hunter2, order %d", 5)
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert "ERROR    shop: Order([redacted]) with {'X-Api-Key': [redacted], 'n': 1}" in written
    assert "ValueError: refused by https://[redacted]@bank" in written
    assert "order 5" in written
