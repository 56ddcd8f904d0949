"""Suites of the base pass as the users of deploy/redis/users.conf."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from aclkit import PROJECTS

HERE = Path(__file__).parent

TYPING_MISTAKES = "tests/cli/test_commands.py::test_bad_input_is_reported_and_changes_nothing"
SUITES = {
    "worker-leased": (
        "tests/jobs/test_job_queue.py", "tests/jobs/test_cron.py", "tests/jobs/test_dead_jobs.py",
        "tests/streams/test_stream_settlement.py",
        "tests/cli/test_commands.py",  # whose worker has leased jobs
        f"--deselect={TYPING_MISTAKES}",  # in a stream's name, to which there is no right
    ),
    "worker-arq": (
        "tests/process/test_arq_service.py", "tests/process/test_arq_dead_letters.py",
        "tests/process/test_requeue_by_arq.py",
        "tests/streams/test_stream_settlement.py",
    ),
    "publisher-arq": (
        "tests/delivery/test_application_adapter.py", "tests/streams/test_publish.py",
    ),
}  # fmt: skip
"""What runs as which user, of a project whose jobs run under leases or under arq's worker."""


def run_suite(user: str, jobs: str, *tests: str) -> subprocess.CompletedProcess[str]:
    own = {"ACL_USER": user, "ACL_FEATURES": ",".join(PROJECTS[jobs]), "PYTHONPATH": str(HERE)}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            "-p",
            "no:cacheprovider",
            "-p",
            "acl_suite",
            *tests,
        ],
        cwd=HERE.parents[1],
        env=os.environ | own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


@pytest.mark.parametrize("suite", SUITES)
def test_suites_pass_as_a_user_of_the_file(suite: str) -> None:
    done = run_suite(*suite.split("-"), *SUITES[suite])

    assert done.returncode == 0, done.stdout[-8_000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("jobs", ["arq", "leased"])
def test_a_suite_fails_as_a_user_who_may_not_do_its_work(jobs: str) -> None:
    done = run_suite("publisher", jobs, "tests/process/test_requeue.py")

    assert done.returncode == 1, done.stdout[-8_000:]
    assert re.search("No permissions to access a key|can't access", done.stdout)
