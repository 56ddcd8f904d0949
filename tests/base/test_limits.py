"""What a deployment has to grant, derived from the configuration."""

import pytest
from workerbase import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.limits import STOP_S, Limits, configured


def test_times_are_rounded_up_to_whole_seconds() -> None:
    config = WorkerConfig(
        drain_timeout=12.1, lease_timeout=7.2, heartbeat_interval=2.6, concurrency=5, prefetch=7
    )
    limits = Limits.of(config)
    assert limits.grace == 13 + STOP_S
    assert (limits.stuck_grace, limits.proving) == (8, 8)
    assert (limits.beat, limits.probe_period) == (3, 6)
    assert limits.held == 12


@pytest.mark.parametrize(("slots", "most"), [(20, 200), (495, 10), (2_000, 2)])
def test_more_slots_leave_room_for_fewer_workers(slots: int, most: int) -> None:
    config = WorkerConfig(concurrency=slots, max_jobs=slots)
    assert Limits.of(config).most_workers == most


def test_a_file_of_variables_configures_what_the_class_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Config(WorkerConfig):
        prefetch: int = 7

    class Settings(BaseArqWorkerSettings):
        job_timeout = 120

    monkeypatch.setenv("WORKER_LEASE_TIMEOUT", "99")
    compose = "environment:\n  WORKER_CONCURRENCY: 5\n  WORKER_JOB_TIMEOUT: '9'\n  OTHER: 3\n"
    found = configured(Settings, Config, compose + "# WORKER_MAX_JOBS=1\nWORKER_POLL_DELAY=0.25\n")

    assert (found.concurrency, found.poll_delay, found.prefetch) == (5, 0.25, 7)
    assert found.job_timeout == 120
    assert (found.lease_timeout, found.max_jobs) == (15, 20)
    assert configured(Settings, Config, "").concurrency == WorkerConfig().concurrency
