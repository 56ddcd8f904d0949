"""Fixtures: workers with metrics, and spans in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from meterkit import Start, Worker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_copier.plugin import CopierFixture
from workerbase.devtools.server import Server


@pytest.fixture(scope="session")
def projects(copier_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two rendered workers: one that always runs, and one that KEDA starts and stops."""
    folder = tmp_path_factory.mktemp("projects")
    answers = {"steady": {}, "scaled": {"kubernetes": True}}
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        return {
            name: renderer.copy(folder / name, telemetry=True, **more).path
            for name, more in answers.items()
        }


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
