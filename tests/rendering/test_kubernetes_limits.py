"""A project's own tests find a limit that was changed alone, and name the file to change."""

import re
import subprocess
from pathlib import Path

import pytest
from rendering_support import run_tests


@pytest.fixture
def projects(kubernetes_projects: dict[str, Path]) -> dict[str, Path]:
    return kubernetes_projects


@pytest.fixture
def project(kubernetes_project: Path) -> Path:
    return kubernetes_project


BASE, OVERLAY = "deploy/kubernetes/base/", "deploy/kubernetes/overlays/production/"
DEPLOYMENT, SCALED = BASE + "deployment.yaml", BASE + "scaled-object.yaml"
SETTINGS, WORKER = "src/my_worker/settings.py", "src/my_worker/worker.py"


def setting(line: str) -> tuple[str, str, str]:
    return (SETTINGS, '    consumer_group: str = "my-worker"', f"\\g<0>\n    {line}")


CHANGED_ALONE = [
    # The configuration, in each place where it can be set; and every file that has to follow.
    (setting("job_timeout: float = 300"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("handler_timeout: float = 90"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("drain_timeout: float | None = 20"), ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    (setting("heartbeat_interval: float = 3"), ["Dockerfile: ", f"{DEPLOYMENT}: .*live.*period"]),
    (setting("lease_timeout: float = 30"), [f"{DEPLOYMENT}: .*minReadySeconds is 15"]),
    (setting("concurrency: int = 40"), [f"{SCALED}: .* pendingEntriesCount is not 540"]),
    (setting("concurrency: int = 400"), [f"{SCALED}: .* lagCount is less than .* 400"]),
    (setting("prefetch: int = 0"), [f"{SCALED}: .* pendingEntriesCount is not 20"]),
    (setting("max_jobs: int = 50"), [f"{SCALED}: .* listLength is not WORKER_MAX_JOBS, 50"]),
    (setting("max_jobs: int = 900"), [f"{OVERLAY}scaled-object.yaml: maxReplicaCount is 20"]),
    (setting('queue_name: str = "jobs"'), [f"{SCALED}: .* runs the jobs of jobs"]),
    (
        (SETTINGS, 'consumer_group: str = ".*"', 'consumer_group: str = "others"'),
        [f"{SCALED}: .* consumerGroup is not WORKER_CONSUMER_GROUP, others"],
    ),
    (
        (WORKER, "config = Config.load\\(\\)", "\\g<0>\n    job_timeout = 120"),
        ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"],
    ),
    (
        (OVERLAY + "worker.env", r"\Z", "WORKER_LEASE_TIMEOUT=5\n"),
        [f"{DEPLOYMENT}: .*livenessProbe.terminationGracePeriodSeconds is 15, .* requires 5"],
    ),
    (
        ("src/my_worker/handlers.py", 'stream="orders"', 'stream="parcels"'),
        [rf"{SCALED}: .* lagCount .* \['orders'\], .* \['parcels'\]"],
    ),
    (
        (
            WORKER,
            r"(?s)\Z",
            "    cron_jobs = (cron(tidy, minute=0),)\n",
        ),
        [f"{SCALED}: minReplicaCount must be 1"],
    ),
    # The files.
    (("compose.yaml", "(?<=stop_grace_period: )75s", "60s"), ["compose.yaml: stop"]),
    (("compose.yaml", "WORKER_REDIS_DSN", "WORKER_JOB_TIMEOUT: 99\n      \\g<0>"), ["compose.y"]),
    (("Dockerfile", "--interval=5s", "--interval=30s"), ["Dockerfile: "]),
    ((DEPLOYMENT, "GracePeriodSeconds: 75", "GracePeriodSeconds: 30"), [f"{DEPLOYMENT}: .* 30"]),
    ((DEPLOYMENT, "GracePeriodSeconds: 15", "GracePeriodSeconds: 75"), [f"{DEPLOYMENT}: .*live"]),
    ((DEPLOYMENT, "minReadySeconds: 15", "minReadySeconds: 0"), [f"{DEPLOYMENT}: .*minReady"]),
    ((DEPLOYMENT, "periodSeconds: 10", "periodSeconds: 5"), [f"{DEPLOYMENT}: .*period"]),
    ((SCALED, '"520"', '"5"'), [f"{SCALED}: .* pendingEntriesCount is not 520"]),
    ((SCALED, '"100"', '"5"'), [f"{SCALED}: .* lagCount is less"]),
    ((SCALED, '"20"', '"5"'), [f"{SCALED}: .* listLength is not"]),
    ((SCALED, 'activationLagCount: "0"', 'activationLagCount: "1"'), [f"{SCALED}: .* is not 0"]),
    ((OVERLAY + "scaled-object.yaml", "20", "300"), [f"{OVERLAY}scaled-object.yaml: maxReplicaC"]),
    ((BASE + "worker.env", r"\Z", "# redis://me:secret@host\n"), ["DSN belongs in the secret"]),
]


def check_limits(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the project's own tests of its limits."""
    tests = ("tests/test_limits.py", "tests/test_kubernetes.py")
    return run_tests(project, "--noconftest", "--tb=line", *tests)


@pytest.mark.parametrize(
    ("change", "named"),
    CHANGED_ALONE,
    ids=[f"{Path(c[0]).name}: {c[2].strip().rpartition('    ')[2]}" for c, _ in CHANGED_ALONE],
)
def test_what_is_changed_alone_is_found_and_the_file_is_named(
    projects: dict[str, Path], change: tuple[str, str, str], named: list[str]
) -> None:
    project = projects["plain"]
    file, pattern, by = change
    path = project / file
    before = path.read_text("utf-8")
    after, count = re.subn(pattern, by, before)
    assert count
    if "cron(" in by:
        after = after.replace("from .", "from arq import cron\n\nfrom .", 1)
        after = after.replace("class ", "async def tidy(ctx: object) -> None: ...\n\n\nclass ", 1)
    path.write_text(after, "utf-8")
    try:
        found = check_limits(project)
    finally:
        path.write_text(before, "utf-8")

    assert found.returncode == 1, found.stdout
    for sentence in named:
        assert re.search(sentence, found.stdout), f"{sentence}\n{found.stdout}"


WITHOUT_STREAMS = [
    ("jobs", "heartbeat_interval: float = 3", [f"{DEPLOYMENT}: .*minReadySeconds is 15"]),
    ("jobs", "max_jobs: int = 50", [f"{SCALED}: .* listLength is not WORKER_MAX_JOBS, 50"]),
    ("jobs", "job_timeout: float = 300", ["compose.yaml: stop", f"{DEPLOYMENT}: .*Grace"]),
    ("leased", "lease_timeout: float = 30", [f"{DEPLOYMENT}: .*minReadySeconds is 15"]),
]


@pytest.mark.parametrize(("answers", "line", "named"), WITHOUT_STREAMS)
def test_what_is_changed_alone_is_found_without_streams_too(
    projects: dict[str, Path], answers: str, line: str, named: list[str]
) -> None:
    path = projects[answers] / SETTINGS
    before = path.read_text("utf-8")
    path.write_text(f"{before}\n    {line}\n", "utf-8")
    try:
        found = check_limits(projects[answers])
    finally:
        path.write_text(before, "utf-8")

    assert found.returncode == 1, found.stdout
    for sentence in named:
        assert re.search(sentence, found.stdout), f"{sentence}\n{found.stdout}"


def test_unchanged_limits_agree(project: Path) -> None:
    found = check_limits(project)

    assert found.returncode == 0, found.stdout
