"""Fixtures: workers with metrics, and spans in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from meterkit import Start, Worker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from workerbase.devtools.server import Server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start workers, each with a folder of its own; what still runs is killed in the end."""
    workers: list[Worker] = []

    def start_worker(server: Server, **environment: str) -> Worker:
        workers.append(Worker(tmp_path / f"worker-{len(workers)}", server, **environment))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.close()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Where the spans of ``provider`` arrive."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    """A tracer provider of this test alone."""
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made
