"""What a deployment must grant a worker, derived from its configuration."""

import pytest
from pydantic import Field
from workerbase import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.streams import StreamsConfig
from workerbase.testing.deployment import STOP_S, Limits, configured


def test_times_are_rounded_up_to_whole_seconds() -> None:
    config = StreamsConfig(
        drain_timeout=12.1, lease_timeout=7.2, heartbeat_interval=2.6, concurrency=5, prefetch=7
    )
    limits = Limits.from_config(config)
    assert limits.grace == 13 + STOP_S
    assert (limits.stuck_grace, limits.proving) == (8, 8)
    assert (limits.beat, limits.probe_period) == (3, 6)
    assert limits.held == 12


@pytest.mark.parametrize(("slots", "workers"), [(20, 200), (495, 10), (2_000, 2)])
def test_more_slots_leave_room_for_fewer_workers(slots: int, workers: int) -> None:
    config = StreamsConfig(concurrency=slots, max_jobs=slots)
    assert Limits.from_config(config).max_workers == workers


def test_a_worker_without_leases_proves_itself_by_its_heartbeats() -> None:
    limits = Limits.from_config(WorkerConfig(job_timeout=9, heartbeat_interval=2, max_jobs=90))
    assert limits.grace == 9 + STOP_S
    assert (limits.stuck_grace, limits.proving) == (6, 6)
    assert (limits.held, limits.max_workers) == (0, 100)


def test_a_file_of_variables_configures_what_the_class_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Config(StreamsConfig):
        prefetch: int = 7

    class Settings(BaseArqWorkerSettings):
        job_timeout = 120

    monkeypatch.setenv("WORKER_LEASE_TIMEOUT", "99")
    compose = "environment:\n  WORKER_CONCURRENCY: 5\n  WORKER_JOB_TIMEOUT: '9'\n  OTHER: 3\n"
    found = configured(Settings, Config, compose + "# WORKER_MAX_JOBS=1\nWORKER_POLL_DELAY=0.25\n")

    assert (found.concurrency, found.poll_delay, found.prefetch) == (5, 0.25, 7)
    assert found.job_timeout == 120
    assert (found.lease_timeout, found.max_jobs) == (15, 20)
    assert configured(Settings, Config, "").concurrency == StreamsConfig().concurrency


def test_settings_of_each_kind_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(WorkerConfig):
        api_key: str
        hosts: list[str] = Field(default=["h"])
        shares: dict[str, int] = Field(default_factory=lambda: {"eu": 1})
        url: str = Field(default="none", validation_alias="DATABASE_URL")

    monkeypatch.setenv("WORKER_API_KEY", "key")
    monkeypatch.setenv("DATABASE_URL", "of this machine")

    class Settings(BaseArqWorkerSettings):
        config = Config.load()

    found = configured(Settings, Config, "")
    assert (found.api_key, found.hosts, found.shares) == ("key", ["h"], {"eu": 1})
    assert found.url == "none"
    written = '  WORKER_HOSTS: \'["a", "b"]\'\n  DATABASE_URL: db\nWORKER_API_KEY=other\n'
    found = configured(Settings, Config, written)
    assert (found.api_key, found.hosts, found.url) == ("other", ["a", "b"], "db")
