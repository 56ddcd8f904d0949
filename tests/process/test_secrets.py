"""Secrets stay out of logs and of status output.

A login is never shown. Payloads are shown by ``dlq show``, which is for that, and jobs' arguments
and results in the log at level DEBUG. The text of an exception is shown wherever errors are.
"""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result
from processkit import Project, until
from workerbase.broker.client import connect, connect_sync
from workerbase.config import WorkerConfig
from workerbase.process.settings import redis_settings

LOGIN, PASSWORD = "teller", "s3cret-password"
MESSAGE, ARGUMENT = "s3cret-message", "s3cret-argument"
ERROR = 7_777_777
"""In the text of an exception: ``order 7777777 refused``."""


@pytest.fixture
def dsn(project: Project) -> Iterator[str]:
    project.redis.execute_command(
        "ACL", "SETUSER", LOGIN, "on", f">{PASSWORD}", "~*", "&*", "+@all"
    )
    yield project.server.dsn.replace("//", f"//{LOGIN}:{PASSWORD}@")
    project.redis.execute_command("ACL", "DELUSER", LOGIN)


def found_in(text: str) -> set[str]:
    """Which of the secrets are in ``text``."""
    secrets = (LOGIN, PASSWORD, MESSAGE, ARGUMENT, str(ERROR))
    return {secret for secret in secrets if secret in text}


@pytest.mark.parametrize("jobs_at_level", ["leased INFO", "leased DEBUG", "arq INFO", "arq DEBUG"])
def test_no_output_shows_more_than_it_is_for(
    project: Project,
    in_process: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    dsn: str,
    jobs_at_level: str,
) -> None:
    jobs, level = jobs_at_level.split()
    env = {
        "WORKER_REDIS_DSN": dsn,
        "WORKER_LOG_LEVEL": level,
        "WORKER_MAX_RETRIES": "2",
        "TINY_JOBS": jobs,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def shown_by(*command: str) -> set[str]:
        done = in_process(*command)
        assert done.exit_code == 0, done.output
        return found_in(done.output)

    worker = project.start_ready(**env)
    fine, refused = {"number": 1, "how": MESSAGE}, {"number": ERROR, "how": "refused"}
    for order in (fine, refused):
        assert shown_by("publish", "order", "--json", json.dumps(order)) == set()
    invalid = {"type": "order", "data": json.dumps({"number": MESSAGE})}
    project.redis.xadd("orders", invalid)
    assert shown_by("enqueue", "add", ARGUMENT, '"x"') == set()  # it returns both as one
    assert shown_by("enqueue", "add", ARGUMENT, "1") == set()  # it fails
    until(lambda: project.redis.hget("sums", ARGUMENT), "the job")
    until(lambda: project.redis.xlen("orders:dlq") == 2, "the dead letters")
    until(lambda: project.redis.xlen("arq:queue:dlq") == 1, "the dead job")

    assert found_in(project.health.read_text()) == set()
    for how in ((), ("--json",)):
        assert shown_by("status", *how) == set()
        assert shown_by("dlq", "ls", *how) == {str(ERROR)}
    assert shown_by("dlq", "show", "--json") == {MESSAGE, ARGUMENT, str(ERROR)}

    worker.process.terminate()
    assert worker.ended() == 0
    assert "add(" in worker.output
    assert found_in(worker.output) == {str(ERROR)} | ({ARGUMENT} if level == "DEBUG" else set())


def test_a_wrong_login_is_reported_without_the_password(project: Project) -> None:
    wrong = project.server.dsn.replace("//", f"//{LOGIN}:{PASSWORD}@")

    done = project.run("status", WORKER_REDIS_DSN=wrong)

    assert done.returncode == 1
    assert "invalid username-password pair" in done.stderr
    assert found_in(done.stdout + done.stderr) == set()


def test_the_configuration_and_clients_do_not_show_the_login(dsn: str) -> None:
    config = WorkerConfig.model_validate({"redis_dsn": dsn})
    sentinel = WorkerConfig.model_validate(
        {
            "redis_dsn": f"redis+sentinel://{LOGIN}:{PASSWORD}@h/0?master=m"
            f"&sentinel_password={PASSWORD}"
        }
    )
    for one in (config, sentinel):
        for thing in (
            one, one.model_dump(), one.model_dump_json(), one.redis_dsn, one.dsn,
            redis_settings(one.dsn), connect(one.dsn), connect_sync(one.dsn),
        ):  # fmt: skip
            assert found_in(f"{thing!r} {thing}") == set(), type(thing)
