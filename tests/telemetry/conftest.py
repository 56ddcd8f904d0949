"""Fixtures: workers with metrics, and spans in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from meterkit import Start, Worker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_copier.plugin import CopierFixture
from workerbase.testing.redis_server import Server


@pytest.fixture(scope="session")
def projects(copier_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rendered workers: one that always runs, one that KEDA starts and stops, one of jobs only."""
    folder = tmp_path_factory.mktemp("projects")
    always = ["streams", "leased_jobs", "telemetry", "console"]
    features = {
        "steady": always,
        "scaled": [*always, "kubernetes"],
        "jobs": ["telemetry"],
    }
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        return {
            name: renderer.copy(folder / name, features=chosen).path
            for name, chosen in features.items()
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
