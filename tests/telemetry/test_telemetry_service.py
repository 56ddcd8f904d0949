"""`Telemetry()` among the services: log set-up and monitors, whoever runs the jobs."""

import importlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from workerbase import BaseArqWorkerSettings, Ctx, WorkerConfig, task
from workerbase.jobs import LeasedJobs
from workerbase.process.settings import resolved_settings
from workerbase.telemetry import Telemetry, export, logs, setup
from workerbase.telemetry.logs import LogContext
from workerbase.telemetry.metrics import Metrics
from workerbase.telemetry.sentry import Sentry
from workerbase.telemetry.tracing import Tracing
from workerbase.testing import WorkerKit
from workerconfig import Config

run_command = importlib.import_module("workerbase.cli.run")
SECRET = "hunter" + "2"


@task()
async def send(ctx: Ctx, address: str) -> str:
    if address == "nowhere":
        raise ValueError(address)
    logging.getLogger("myworker").info("sending")
    return f"sent to {address}"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, arq = logging.getLogger(), logging.getLogger("arq.worker")
    handlers, level, filters = root.handlers[:], root.level, arq.filters[:]
    yield
    root.handlers[:], arq.filters[:] = handlers, filters
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture(params=["leased", "arq"])
def services(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    return (*([LeasedJobs()] if request.param == "leased" else []), Telemetry())


def settings_of(services: tuple[Any, ...], **more: Any) -> type[BaseArqWorkerSettings]:
    members = {"config": Config(), "functions": (send,), "services": services, **more}
    return type("Settings", (BaseArqWorkerSettings,), members)


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.mark.parametrize("log_results", [False, True])
async def test_arguments_and_results_of_jobs_are_not_in_the_log(
    services: tuple[Any, ...], tmp_path: Path, log_results: bool
) -> None:
    output = io.StringIO()
    logs.configure(WorkerConfig(), stream=output)
    settings = settings_of(services, log_results=log_results)
    async with WorkerKit(settings, str(tmp_path / "healthy")) as kit:
        await kit.enqueue(send.job(SECRET))
        assert (await kit.run()).handled == ["send"]

    said = [line["message"] for line in lines(output) if ":send" in line["message"]]
    assert any("→" in text and text.endswith(":send([redacted])") for text in said), said
    result = "● [redacted]" if log_results else "● "
    assert any("←" in text and text.endswith(result) for text in said), said
    assert SECRET not in output.getvalue()


async def test_each_line_of_a_job_names_the_job(services: tuple[Any, ...], tmp_path: Path) -> None:
    output = io.StringIO()
    logs.configure(WorkerConfig(), stream=output)
    async with WorkerKit(settings_of(services), str(tmp_path / "healthy")) as kit:
        job = await kit.enqueue(send.job("a"), _job_id="first")
        await kit.enqueue(send.job("nowhere"), _job_id="bad")
        result = await kit.run()
    assert job is not None
    assert result.dead_lettered == ["send"]

    (own,) = [line for line in lines(output) if line["logger"] == "myworker"]
    assert (own["job_id"], own["function"], own["attempt"]) == ("first", "send", 1)
    for line in lines(output):
        if ":send" in line["message"]:
            assert (line["job_id"] in line["message"], line["function"]) == (True, "send"), line
    failures = [line for line in lines(output) if "ValueError: nowhere" in line["message"]]
    assert {line["job_id"] for line in failures} == {"bad"}
    # arq's own line about the end does not know the attempt.
    assert [line["attempt"] for line in failures if "attempt" in line] == [1, 2, 3, 4, 5]


def test_it_brings_each_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolved_settings(settings_of((Telemetry(),)))
    kinds = [type(monitor) for monitor in settings.all_monitors]
    assert kinds == [Metrics, Tracing, LogContext]

    monkeypatch.setenv("WORKER_SENTRY_DSN", "https://key@sentry.example/1")
    assert isinstance(settings.all_monitors[-1], Sentry)


def test_the_run_command_lets_it_set_up_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[WorkerConfig] = []
    monkeypatch.setattr(run_command, "setup_logging", plain.append)
    output = io.StringIO()
    monkeypatch.setattr("sys.stderr", output)
    run_command._setup_process(resolved_settings(settings_of((Telemetry(shown={"Result"}),))))
    structlog.get_logger("x").info("done", result="fine", token="t")

    assert plain == []
    (line,) = lines(output)
    assert (line["message"], line["result"], line["token"]) == ("done", "fine", "[redacted]")

    run_command._setup_process(resolved_settings(settings_of(())))
    assert plain == [Config()]


def test_a_project_may_set_up_its_process_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(setup, "setup_process", lambda *_: order.append("telemetry"))

    def own(config: WorkerConfig) -> None:
        order.append("own")

    class Heir(settings_of((Telemetry(),), setup_process=own)):  # type: ignore[misc]
        pass

    run_command._setup_process(resolved_settings(Heir))
    assert order == ["telemetry", "own"]
    assert resolved_settings(Heir).setup_process is own
    assert BaseArqWorkerSettings.setup_process is None


@pytest.mark.parametrize(
    ("config", "service"),
    [(Config(consumer_group="readers"), "readers"), (WorkerConfig(queue_name="mine"), "mine")],
)
def test_spans_are_sent_under_the_name_of_the_group_or_queue(
    monkeypatch: pytest.MonkeyPatch, config: WorkerConfig, service: str
) -> None:
    names: list[str] = []
    monkeypatch.setattr(export, "if_configured", names.append)
    Telemetry().setup_process(config)
    assert names == [service]
