"""Typed enqueue: what the checkers refuse, and what is refused at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobkit import BASE

TASKS = """
from workerbase import Ctx, task

@task()
async def send(ctx: Ctx, user_id: int, *, subject: str = "") -> str:
    return subject
"""

RIGHT = """
from mytasks import send
from workerbase.base import BaseArqService
from workerbase.delivery.arq import ArqAdapter
from workerbase.types import Call, Ctx

async def right(service: BaseArqService, jobs: ArqAdapter, ctx: Ctx) -> None:
    call: Call = send.job(42, subject="hello")
    await service.enqueue_job(call, _job_id="x")
    await jobs.enqueue(send.job(user_id=42))
    jobs.enqueue_sync(call)
    text: str = await send(ctx, 42)
    print(text)
"""

WRONG = {
    "too few": "send.job()",
    "wrong type": 'send.job("42")',
    "too many": "send.job(1, 2)",
    "unknown name": "send.job(1, subjct='')",
    "wrong option": "send.job(1, subject=2)",
    "no such task option": "send.jobs(1)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mytasks.py").write_text(TASKS)
    (tmp_path / "right.py").write_text(RIGHT)
    lines = [f"{call}  # type: ignore  # {name}" for name, call in WRONG.items()]
    (tmp_path / "wrong.py").write_text("from mytasks import send\n\n" + "\n".join(lines) + "\n")
    (tmp_path / "pyrightconfig.json").write_text(
        '{"typeCheckingMode": "strict", "reportMissingTypeStubs": false,'
        f' "extraPaths": ["{BASE}"], "reportUnusedExpression": false,'
        ' "reportUnnecessaryTypeIgnoreComment": "error"}'
    )
    return tmp_path


def check(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    tools = Path(sys.executable).parent
    return subprocess.run(
        [str(tools / command[0]), *command[1:]],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{BASE}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_mypy_takes_right_arguments_and_refuses_each_wrong_one(folder: Path) -> None:
    # A comment that ignores nothing is an error, so each line of wrong.py is refused.
    strict = ("--strict", "--warn-unused-ignores", "--disable-error-code=unused-coroutine")
    done = check(folder, "mypy", *strict, "right.py", "wrong.py")
    assert done.returncode == 0, done.stdout


def test_pyright_takes_right_arguments_and_refuses_each_wrong_one(folder: Path) -> None:
    done = check(folder, "pyright", "--pythonpath", sys.executable, "right.py", "wrong.py")
    assert done.returncode == 0, done.stdout


def test_a_wrong_name_of_a_task_fails_at_import(folder: Path) -> None:
    (folder / "app.py").write_text("from mytasks import sendd\n")
    done = subprocess.run(
        [sys.executable, "-c", "import app"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{BASE}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot import name 'sendd' from 'mytasks'" in done.stderr
