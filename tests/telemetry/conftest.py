"""Fixtures: workers with metrics."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from meterkit import Start, Worker
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
