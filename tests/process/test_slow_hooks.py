"""A stop ends the worker although the lifespan of the project does not end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import quick_python
from waiting import until_true
from workerbase.testing.redis_server import Server

WORKER = Path(__file__).with_name("slow_hook_worker.py")
PATIENCE_S = 30


@pytest.mark.parametrize(
    ("place", "code", "says"),
    [
        ("startup-waits", 0, "stopped while a startup hook or the lifespan was waiting"),
        ("startup-blocks", 1, "ignored cancellation; exiting anyway"),
        ("service-waits", 0, "stopped while a startup hook or the lifespan was waiting"),
        ("service-blocks", 1, "ignored cancellation; exiting anyway"),
        ("startup-ignores", 1, "ignored cancellation; exiting anyway"),
        ("shutdown-waits", 0, "did not end within 0.5 s and was cancelled"),
        ("shutdown-ignores", 1, "ignored cancellation; exiting anyway"),
        ("shutdown-blocks", 1, "ignored cancellation; exiting anyway"),
    ],
)
def test_a_stop_ends_the_worker_whatever_its_lifespan_does(
    server: Server, tmp_path: Path, place: str, code: int, says: str
) -> None:
    health = tmp_path / "healthy"
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "WORKER_REDIS_DSN": server.dsn,
        "WORKER_HEALTH_FILE": str(health),
    }
    worker = quick_python.Popen(
        [sys.executable, WORKER, place],
        env=os.environ | own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "starting\n"
    if place.startswith("shutdown"):
        until_true(
            lambda: health.exists() and '"ready"' in health.read_text(),
            "the worker is ready",
            patience=PATIENCE_S,
        )
    worker.send_signal(signal.SIGTERM)

    _, log = worker.communicate(timeout=PATIENCE_S)

    assert worker.returncode == code, log
    assert says in log
