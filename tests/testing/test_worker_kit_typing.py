"""Type checkers compare the jobs that a test enqueues with the tasks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processkit import BASE

USE = """
from workerbase import BaseArqWorkerSettings, Ctx, WorkerConfig, task
from workerbase.testing import Run, WorkerKit

def make(settings: type[BaseArqWorkerSettings], config: WorkerConfig) -> WorkerKit:
    return WorkerKit(settings, "healthy", config=config)

@task()
async def send(ctx: Ctx, user_id: int) -> str:
    return str(user_id)

async def use(kit: WorkerKit) -> list[str]:
    job = await kit.enqueue(send.job(42), _job_id="x", _defer_by=5)
    await kit.enqueue("send", 42)
    await kit.enqueue(send.job("42"))  # type: ignore
    result: Run = await kit.run()
    results = [f"{job.function}{job.args}: {job.result}" for job in result.jobs]
    dead = [entry.error for entry in await kit.dead_letters("x")]
    return [*results, *result.handled, *dead, str(job)]
"""


@pytest.mark.parametrize(
    "command",
    [
        ("mypy", "--strict", "--warn-unused-ignores", "use.py"),
        ("pyright", "--pythonpath", sys.executable, "use.py"),
    ],
    ids=lambda command: command[0],
)
def test_a_typed_job_can_be_enqueued_and_a_wrong_one_is_refused(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "pyrightconfig.json").write_text(
        '{"typeCheckingMode": "strict", "reportMissingTypeStubs": false,'
        f' "extraPaths": ["{BASE}"], "reportUnnecessaryTypeIgnoreComment": "error"}}'
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(BASE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
