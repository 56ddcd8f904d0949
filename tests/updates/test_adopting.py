"""docs/adopting.md, done: a hand-written arq worker becomes a project of the template."""

import asyncio
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from arq import create_pool
from arq.connections import RedisSettings
from updates.conftest import Project, run
from updates.golden import wait_for
from updates.releases import HEAD, NEXT, ROOT, git_environment
from workerbase.base import BaseArqWorkerSettings
from workerbase.errors import SettingsError
from workerbase.testing.redis_server import Server

GUIDE = (ROOT / "docs" / "adopting.md").read_text()

TASKS = """\
async def send_letter(ctx, name, when=None):
    ctx["letters"].append(name)
    await ctx["redis"].rpush("letters", f"{name} {len(ctx['letters'])} {when}")


async def count_letters(ctx):
    return len(ctx["letters"])
"""
OWN_TEST = """\
from shop.tasks import count_letters
from shop.workerbase.testing import WorkerKit


async def test_letters_are_sent(kit: WorkerKit) -> None:
    job = await kit.enqueue("send_letter", "Ada")
    await kit.run()
    assert job is not None
    assert (await job.info()).success
    assert await count_letters(kit.ctx) == 1
"""


def block(first_line: str) -> str:
    (found,) = re.findall(rf"```python\n{first_line}\n(.*?)```", GUIDE, re.DOTALL)
    return found


def commands() -> list[str]:
    return "".join(re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)).splitlines()


@pytest.fixture
def adopted(history: Path, tmp_path: Path) -> Project:
    """The worker of the guide, after its steps."""
    path = tmp_path / "shop"
    (path / "src" / "shop").mkdir(parents=True)
    (path / "tests").mkdir()
    files = {
        "pyproject.toml": '[project]\nname = "shop"\ndependencies = ["arq", "httpx"]\n',
        "README.md": "# Our shop\n",
        "src/shop/__init__.py": "",
        "src/shop/tasks.py": TASKS,
        "src/shop/worker.py": block("# before"),
        "tests/test_letters.py": OWN_TEST,
    }
    for name, text in files.items():
        (path / name).write_text(text)
    project = Project(path, "shop")
    project.git("init", "--quiet", "--initial-branch=main")
    project.commit()

    copy, diff, remove, test, start = commands()
    assert (diff, test, start) == ("git diff", "uv run pytest", "uv run shop run")
    arguments = shlex.split(copy.replace("gh:org/arq-worker-template", str(history)))
    assert arguments[0] == "uvx"
    done = run(path, *arguments[1:], "--vcs-ref", HEAD)
    assert done.returncode == 0, done.stderr
    assert '-dependencies = ["arq", "httpx"]' in project.git(*shlex.split(diff)[1:])
    subprocess.run(shlex.split(remove), cwd=path, check=True)
    (path / "src/shop/worker.py").write_text(block("# after"))
    project.commit()
    return project


def test_the_adopted_project_keeps_what_is_its_own_and_passes_its_suite(adopted: Project) -> None:
    assert (adopted.path / "README.md").read_text() == "# Our shop\n"
    assert (adopted.source / "tasks.py").read_text() == TASKS

    done = adopted.suite("-rA")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED tests/test_letters.py::test_letters_are_sent" in done.stdout
    assert "test_base.py" in done.stdout


def test_the_adopted_project_is_updated_as_any_other(adopted: Project) -> None:
    deleted = adopted.path / "tests" / "test_tasks.py"

    adopted.update(NEXT)

    assert not deleted.exists()
    assert (adopted.source / "worker.py").read_text() == block("# after")


def test_jobs_of_the_old_application_and_of_the_new_one_are_run(
    adopted: Project, server: Server, tmp_path: Path
) -> None:
    asyncio.run(enqueue_as_plain_arq_does(server))
    environment = {
        **git_environment(),
        "PYTHONPATH": str(adopted.path / "src"),
        "WORKER_REDIS_DSN": server.dsn,
        "WORKER_HEALTH_FILE": str(tmp_path / "healthy"),
    }
    shop = [sys.executable, "-m", "shop"]
    new = [*shop, "enqueue", "send_letter", "JSON"]
    subprocess.run(new, cwd=tmp_path, env=environment, check=True)

    with (
        redis.Redis(port=server.port) as client,
        subprocess.Popen([*shop, "run"], cwd=tmp_path, env=environment) as worker,
    ):
        try:
            wait_for(lambda: client.llen("letters") == 2, "both letters are sent")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        finally:
            worker.kill()
        letters = [row.decode() for row in client.lrange("letters", 0, -1)]

    assert {letter.split()[0] for letter in letters} == {"pickled", "JSON"}
    assert {letter.split()[1] for letter in letters} == {"1", "2"}  # startup ran once, for both


async def enqueue_as_plain_arq_does(server: Server) -> None:
    pool = await create_pool(RedisSettings(port=server.port))
    await pool.enqueue_job("send_letter", "pickled")
    await pool.aclose(close_connection_pool=True)


@pytest.mark.parametrize("name", ["redis_settings", "redis_pool"])
def test_redis_of_its_own_is_refused_with_the_variable_to_set(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"Plain\.{name} .*WORKER_REDIS_DSN"):
        type("Plain", (BaseArqWorkerSettings,), {name: RedisSettings(host="redis")})


def test_a_deserializer_that_would_lose_retry_jobs_is_refused() -> None:
    with pytest.raises(SettingsError, match="job_deserializer does not read JSON"):
        type("Pickled", (BaseArqWorkerSettings,), {"job_deserializer": pickle.loads})
