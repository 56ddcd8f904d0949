"""Applications that fork, and applications that import only the delivery side."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as sync
from workerbase.testing.redis_server import Server

BASE = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"
QUEUE = "arq:queue"


@pytest.fixture
def admin(server: Server) -> Iterator[sync.Redis]:
    with sync.Redis(port=server.port) as client:
        yield client


FORK = """
import asyncio, os, sys
from workerbase.delivery import ArqAdapter
from workerbase.streams import Event, EventPublisher

class Ping(Event, type="ping", stream="pings"):
    number: int

jobs, events = ArqAdapter(), EventPublisher()

async def both(number):
    await jobs.enqueue("work", number)
    await events.publish(Ping(number=number))
    await jobs.aclose()
    await events.aclose()

def use(number):
    jobs.enqueue_sync("work", number)
    events.publish_sync(Ping(number=number))
    asyncio.run(both(number))
    jobs.enqueue_sync("work", number)

use(0)
jobs.enqueue_sync("work")  # open when the fork comes
children = []
for number in range(1, 5):
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            use(number)
        os._exit(0)
    children.append(pid)
use(5)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
use(6)
assert codes == [0] * 4, codes
"""


def test_adapters_that_were_used_before_a_fork_work_in_parent_and_children(
    server: Server, admin: sync.Redis, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(BASE), "WORKER_REDIS_DSN": server.dsn}
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uses = 3 + 4 * 5
    assert admin.zcard(QUEUE) == uses * 3 + 1
    assert admin.xlen("pings") == uses * 2


def test_the_application_imports_it_without_the_worker_and_its_environment(
    server: Server, admin: sync.Redis, tmp_path: Path
) -> None:
    package = tmp_path / "shop_worker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "workerbase").symlink_to(BASE / "workerbase")
    for name in ("settings", "worker", "tasks", "handlers"):
        (package / f"{name}.py").write_text("raise RuntimeError('the worker was imported')")
    script = (
        "import os\n"
        "from shop_worker.workerbase.delivery import ArqAdapter\n"
        "from shop_worker.workerbase.streams import EventPublisher\n"
        "jobs, events = ArqAdapter(), EventPublisher()\n"  # still nothing is read
        "os.environ['WORKER_REDIS_DSN'] = os.environ.pop('REDIS')\n"
        "print(jobs.enqueue_sync('work', 1))\n"
    )
    environment = os.environ | {"REDIS": server.dsn, "WORKER_REDIS_DSN": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert admin.zrange(QUEUE, 0, -1) == [done.stdout.strip().encode()]


def test_importing_the_adapter_costs_no_more_than_arq_and_pydantic_settings(
    tmp_path: Path,
) -> None:
    script = (
        "import json, sys\n"
        "import arq, pydantic_settings\n"
        "before = set(sys.modules)\n"
        "from workerbase.delivery import ArqAdapter\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(BASE)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = [name.split(".") for name in json.loads(done.stdout)]
    assert {name[0] for name in loaded} - sys.stdlib_module_names <= {"workerbase"}
    packages = {name[1] for name in loaded if name[0] == "workerbase" and len(name) > 1}
    rooms = {"broker", "delivery", "engine"}
    assert packages == rooms | {"config", "environment", "errors", "former_names", "types"}
