"""A worker process sends spans and reports over the network, and its log is as documented."""

import asyncio
import gzip
import json
import os
import pty
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from processkit import PYTHONPATH
from sentry_sdk.envelope import Envelope
from waiting import until
from workerbase.config import WorkerConfig
from workerbase.delivery import ArqAdapter
from workerbase.errors import ConfigError
from workerbase.streams import Event, EventPublisher
from workerbase.telemetry import export
from workerbase.testing.redis_server import Server

HERE = Path(__file__).parent
WHERE = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Paid(Event, type="order.paid", stream="orders"):
    email: str


class Collector:
    """Takes what OpenTelemetry and Sentry send."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                got.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Collector":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """Return each span with the attributes of its resource."""
        found: list[tuple[dict[str, str], Any]] = []
        for path, body in self.got:
            if path == "/v1/traces":
                for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                    of = {item.key: item.value.string_value for item in part.resource.attributes}
                    found += [(of, span) for scope in part.scope_spans for span in scope.spans]
        return found

    def reports(self) -> list[Any]:
        return [
            Envelope.deserialize(body).get_event()
            for path, body in self.got
            if path.endswith("/envelope/")
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def environment(server: Server, collector: Collector, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((PYTHONPATH, str(HERE))),
        "WORKER_REDIS_DSN": server.dsn,
        "WORKER_CONSUMER_GROUP": "readers",
        WHERE: f"http://{collector.address}",
        "WORKER_SENTRY_DSN": f"http://key@{collector.address}/1",
        **more,
    }


async def run(server: Server, env: dict[str, str], tmp_path: Path, stderr: int) -> str:
    """Run the worker until it has given up a message and a job; return their trace id."""
    command = [sys.executable, str(HERE / "reporting_worker.py"), "run"]
    worker = await asyncio.create_subprocess_exec(*command, env=env, stderr=stderr, cwd=tmp_path)
    try:
        config = WorkerConfig.model_validate({"redis_dsn": server.dsn})
        async with EventPublisher(config) as events, ArqAdapter(config) as jobs:
            tracer = TracerProvider().get_tracer("application")
            with tracer.start_as_current_span("request") as sender:
                events.publish_sync(Paid(email="hunter2"))
                jobs.enqueue_sync("bill", "hunter2")
            redis: Any = events.for_threads
            dlqs = ("orders:dlq", "arq:queue:dlq")
            await until(lambda: all(map(redis.xlen, dlqs)) or worker.returncode is not None)
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    return f"{sender.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("jobs", ["leased", "arq"])
async def test_what_happened_arrives_before_the_process_ends(
    server: Server, collector: Collector, tmp_path: Path, jobs: str
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        env = environment(server, collector, REPORTING_JOBS=jobs)
        trace_id = await run(server, env, tmp_path, output.fileno())

    found = collector.spans()
    assert {resource["service.name"] for resource, _ in found} == {"readers"}
    assert sorted((span.name, span.trace_id.hex()) for _, span in found) == [
        ("process arq:queue", trace_id),
        ("process orders", trace_id),
    ]
    reports = collector.reports()
    assert [report["tags"]["trace_id"] for report in reports] == [trace_id] * 2
    assert {report["transaction"] for report in reports} == {"order.paid", "bill"}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    about = [line for line in lines if line.get("trace_id") == trace_id]
    failed = [line for line in about if "refused" in line["message"]]
    assert {line.get("event_type") or line["function"] for line in failed} == {"order.paid", "bill"}
    assert lines[-1]["message"] == "stopped"
    sent = b"".join(body for _, body in collector.got)
    for written in (sent, log.read_bytes()):
        assert b"hunter2" not in written.replace(b"https://u:hunter2@bank", b"")
    assert all("https://[redacted]@bank" in span.status.message for _, span in found)


async def test_in_a_terminal_the_log_is_readable(
    server: Server, collector: Collector, tmp_path: Path
) -> None:
    ours, its = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        while True:
            try:
                written.append(os.read(ours, 65536))
            except OSError:  # the process has ended
                return

    reader = threading.Thread(target=read)
    reader.start()
    env = environment(server, collector, NO_COLOR="1", OTEL_SERVICE_NAME="mine")
    try:
        trace_id = await run(server, env, tmp_path, its)
    finally:
        os.close(its)
        reader.join()
        os.close(ours)

    text = b"".join(written).decode()
    (line,) = [
        found for found in text.splitlines() if "dead-lettered" in found and "orders" in found
    ]
    assert not line.startswith("{")
    assert "refused by https://[redacted]@bank" in line
    assert f"trace_id={trace_id}" in line
    assert {resource["service.name"] for resource, _ in collector.spans()} == {"mine"}


def test_nothing_is_sent_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WHERE, raising=False)
    assert export.if_configured("s") is False
    monkeypatch.setenv(WHERE, "http://127.0.0.1:1")
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert export.if_configured("s") is False


def test_missing_packages_stop_the_start_and_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(WHERE, "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=f"{WHERE} is set, .*uv sync --extra tracing"):
        export.if_configured("s")
