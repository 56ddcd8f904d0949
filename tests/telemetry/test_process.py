"""A worker process sends spans and reports over the network, and its log is what it promises."""

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
from sentry_sdk.envelope import Envelope
from waiting import until
from workerbase.config import WorkerConfig
from workerbase.delivery.streams import EventPublisher
from workerbase.devtools.server import Server
from workerbase.errors import ConfigError
from workerbase.events import Event
from workerbase.telemetry import export

HERE = Path(__file__).parent
BASE = Path(export.__file__).parents[2]
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
        "PYTHONPATH": os.pathsep.join((str(BASE), str(HERE))),
        "WORKER_REDIS_DSN": server.dsn,
        "WORKER_CONSUMER_GROUP": "told",
        WHERE: f"http://{collector.address}",
        "WORKER_SENTRY_DSN": f"http://key@{collector.address}/1",
        **more,
    }


async def run(server: Server, env: dict[str, str], tmp_path: Path, stderr: int) -> str:
    """Run the worker until it has given up one message; return that message's trace id."""
    command = [sys.executable, str(HERE / "told_worker.py"), "run"]
    worker = await asyncio.create_subprocess_exec(*command, env=env, stderr=stderr, cwd=tmp_path)
    try:
        config = WorkerConfig.model_validate({"redis_dsn": server.dsn})
        async with EventPublisher(config) as events:
            tracer = TracerProvider().get_tracer("application")
            with tracer.start_as_current_span("request") as sender:
                events.publish_sync(Paid(email="hunter2"))
            redis: Any = events.for_threads
            await until(lambda: redis.xlen("orders:dlq") or worker.returncode is not None)
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    return f"{sender.get_span_context().trace_id:032x}"


async def test_what_happened_arrives_before_the_process_ends(
    server: Server, collector: Collector, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        trace_id = await run(server, environment(server, collector), tmp_path, output.fileno())

    ((resource, span),) = collector.spans()
    assert resource["service.name"] == "told"
    assert (span.name, span.trace_id.hex()) == ("process orders", trace_id)
    (report,) = collector.reports()
    assert report["tags"]["trace_id"] == trace_id
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (told,) = [line for line in lines if "refused" in line["message"]]
    assert (told["trace_id"], told["event_type"]) == (trace_id, "order.paid")
    assert lines[-1]["message"] == "stopped"
    sent = b"".join(body for _, body in collector.got)
    for written in (sent, log.read_bytes()):
        assert b"hunter2" not in written.replace(b"https://u:hunter2@bank", b"")
    assert "https://[redacted]@bank" in span.status.message


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
    (told,) = [line for line in text.splitlines() if "dead-lettered" in line]
    assert not told.startswith("{")
    assert "refused by https://[redacted]@bank" in told
    assert f"trace_id={trace_id}" in told
    ((resource, _),) = collector.spans()
    assert resource["service.name"] == "mine"


def test_nothing_is_sent_where_nobody_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
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
