"""Settings come from the environment and .env, and errors name the variable."""

import logging
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict
from workerbase.broker.client import connect, connect_sync
from workerbase.config import DEFAULT_HEALTH_FILE, WorkerConfig, health_path
from workerbase.errors import ConfigError, WorkerError
from workerbase.leasing.config import LeaseConfig
from workerbase.process.settings import redis_settings
from workerbase.streams import StreamsConfig
from workerconfig import Config

# name, as written in the environment, as read, something wrong if there is such a text
SETTINGS: list[tuple[str, str, object, str | None]] = [
    ("redis_dsn", "redis://h:1/2", SecretStr("redis://h:1/2"), "http://h"),
    ("max_payload", "2000", 2_000, "0"),
    ("queue_name", "mail", "mail", None),
    ("max_jobs", "7", 7, "0"),
    ("job_timeout", "1.5", 1.5, "0"),
    ("keep_result", "0", 0.0, "-1"),
    ("poll_delay", "0.1", 0.1, "soon"),
    ("timezone", "Europe/Berlin", "Europe/Berlin", "Europe/Berlim"),
    ("max_retries", "1", 1, "0"),
    ("retry_backoff", "0", 0.0, "-1"),
    ("retry_backoff_max", "9", 9.0, "0.5"),
    ("consumer_group", "g", "g", None),
    ("concurrency", "3", 3, "0"),
    ("handler_timeout", "2", 2.0, "-2"),
    ("prefetch", "0", 0, "-1"),
    ("lease_timeout", "0.1", 0.1, "0.01"),
    ("max_deliveries", "2", 2, "0"),
    ("dlq_max_entries", "10", 10, "0"),
    ("trim", "false", False, "perhaps"),
    ("breaker_threshold", "5", 5, "0"),
    ("breaker_max_wait", "90", 90.0, "0"),
    ("drain_timeout", "4", 4.0, "0"),
    ("health_file", "/run/h", "/run/h", None),
    ("heartbeat_interval", "0.25", 0.25, "0.2"),
    ("log_level", "debug", "debug", "loud"),
]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORKER_HEALTH_FILE")
    monkeypatch.chdir(tmp_path)


def test_the_table_of_this_test_has_every_setting() -> None:
    assert {name for name, *_ in SETTINGS} == set(Config.model_fields)


@pytest.mark.parametrize(("name", "written", "read", "wrong"), SETTINGS)
def test_every_setting_comes_from_the_environment_and_a_wrong_value_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, read: object, wrong: str | None
) -> None:
    variable = f"WORKER_{name.upper()}"
    monkeypatch.setenv(variable, written)
    assert getattr(Config.load(), name) == read
    if wrong is None:
        return
    monkeypatch.setenv(variable, wrong)
    with pytest.raises(ConfigError, match=rf"(?m)^  {variable}: \S") as caught:
        Config.load()
    assert isinstance(caught.value, WorkerError)


@pytest.mark.parametrize(("name", "written", "read", "wrong"), SETTINGS)
def test_every_setting_comes_from_the_env_file_and_the_environment_takes_precedence(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, read: object, wrong: str | None
) -> None:
    variable = f"WORKER_{name.upper()}"
    Path(".env").write_text(f"# a comment\n{variable}={written}\nOTHER=1\n", encoding="utf-8")
    assert getattr(Config.load(), name) == read
    if wrong is None:
        return
    Path(".env").write_text(f"{variable}={wrong}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{variable}: "):
        Config.load()
    monkeypatch.setenv(variable, written)
    assert getattr(Config.load(), name) == read


@pytest.mark.parametrize("name", [name for name, *_ in SETTINGS])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = getattr(Config.load(), name)
    monkeypatch.setenv(f"WORKER_{name.upper()}", "")
    assert getattr(Config.load(), name) == expected


@pytest.mark.parametrize(
    "name", ["keep_result", "job_timeout", "retry_backoff_max", "lease_timeout"]
)
@pytest.mark.parametrize("value", ["inf", "nan", "1e20"])
def test_a_duration_is_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"WORKER_{name.upper()}", value)
    with pytest.raises(ConfigError, match=f"WORKER_{name.upper()}"):
        Config.load()


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_JOBS", "JOB_TIMEOUT", "LOG_LEVEL"):
        monkeypatch.setenv(f"WORKER_{name}", "x")
    with pytest.raises(ConfigError) as caught:
        WorkerConfig.load()
    assert re.findall(r"WORKER_\w+", str(caught.value)) == [
        "WORKER_MAX_JOBS", "WORKER_JOB_TIMEOUT", "WORKER_LOG_LEVEL",
    ]  # fmt: skip


def test_the_defaults_are_those_of_the_contract() -> None:
    config = WorkerConfig.load()
    assert (config.max_jobs, config.job_timeout, config.max_retries) == (20, 60, 5)
    assert config.health_file == DEFAULT_HEALTH_FILE == "/tmp/arq_worker_healthy"


def test_backoff_and_its_bound_may_be_equal() -> None:
    assert WorkerConfig(retry_backoff=3, retry_backoff_max=3).retry_backoff_max == 3


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WorkerConfig().max_jobs = 3  # type: ignore[misc]


def test_the_drain_waits_for_the_longer_timeout_unless_it_is_set() -> None:
    assert Config(job_timeout=3, handler_timeout=4).drain_seconds == 4
    assert Config(job_timeout=5, handler_timeout=4).drain_seconds == 5
    assert WorkerConfig(job_timeout=6).drain_seconds == 6
    assert WorkerConfig(drain_timeout=1).drain_seconds == 1


def test_the_health_path_is_known_although_the_rest_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_MAX_JOBS", "wrong")
    assert health_path() == DEFAULT_HEALTH_FILE
    Path(".env").write_text("WORKER_HEALTH_FILE=/run/file\n", encoding="utf-8")
    assert health_path() == "/run/file"
    monkeypatch.setenv("WORKER_HEALTH_FILE", "/run/env")
    assert health_path() == "/run/env"


def test_variables_that_are_only_nearly_settings_are_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_MAX_JOBS", "3")
    monkeypatch.setenv("worker_max_job", "3")
    monkeypatch.setenv("WORKER_XYZZY", "3")
    Path(".env").write_text("WORKER_QUEUE_NAM=x\nQUEUE=y\n", encoding="utf-8")
    assert sorted(WorkerConfig.unknown_variables()) == [
        "WORKER_QUEUE_NAM is not a setting; did you mean WORKER_QUEUE_NAME?",
        "WORKER_XYZZY is not a setting",
        "worker_max_job is not a setting; did you mean WORKER_MAX_JOBS?",
    ]


def test_a_project_adds_settings_of_its_own_under_its_own_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(WorkerConfig):
        model_config = SettingsConfigDict(env_prefix="SHOP_")
        currency: str = "EUR"

        @model_validator(mode="after")
        def _check(self) -> "Mine":
            if self.currency == "DM":
                raise ValueError("no longer legal tender")
            return self

    monkeypatch.setenv("SHOP_CURRENCY", "CHF")
    monkeypatch.setenv("SHOP_MAX_JOBS", "2")
    monkeypatch.setenv("WORKER_MAX_JOBS", "3")
    config = Mine.load()
    assert (config.currency, config.max_jobs) == ("CHF", 2)
    monkeypatch.setenv("SHOP_CURRENCY", "DM")
    with pytest.raises(ConfigError, match=r"invalid:\n  Value error, no longer legal tender$"):
        Mine.load()
    monkeypatch.setenv("SHOP_MAX_JOBS", "x")
    with pytest.raises(ConfigError, match="SHOP_MAX_JOBS"):
        Mine.load()


def test_a_setting_of_a_feature_is_a_setting_where_the_feature_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_PREFETCH", "3")
    assert Config.unknown_variables() == []
    assert WorkerConfig.unknown_variables() == ["WORKER_PREFETCH is not a setting"]
    assert not {"prefetch", "lease_timeout", "concurrency", "consumer_group"} & set(
        WorkerConfig.model_fields
    )


def test_features_share_the_settings_of_their_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_LEASE_TIMEOUT", "7")
    config = Config.load()
    assert isinstance(config, LeaseConfig)
    assert isinstance(config, StreamsConfig)
    assert config.lease_timeout == 7
    assert list(Config.model_fields).count("lease_timeout") == 1


SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    "dsn",
    [
        f"redis://user:{SECRET}@localhost/0",
        f"rediss+sentinel://user:{SECRET}@localhost/0?sentinel_password={SECRET}",
        f"unix://user:{SECRET}@/run/redis.sock?db=1",
    ],
)
def test_secrets_stay_out_of_repr_str_json_and_logs(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = WorkerConfig(redis_dsn=SecretStr(dsn))
    for_arq = redis_settings(config.dsn)
    shown = (config, config.dsn, for_arq, {"ctx": [for_arq]})
    clients = (connect(config.dsn), connect_sync(config.dsn))
    for value in (*shown, *clients, *(client.connection_pool for client in clients)):
        logging.getLogger("test").warning("%s %r", value, value)
        assert SECRET not in f"{value} {value!r}"
    assert SECRET not in caplog.text
    assert SECRET not in config.model_dump_json()
    assert for_arq.password == SECRET


@pytest.mark.parametrize(
    "dsn",
    [
        f"http://user:{SECRET}@localhost",
        f"{SECRET}://localhost",
        f"redis://user:{SECRET}@localhost/one",
        f"redis://user:{SECRET}@localhost:port/0",
        f"redis://user:12/{SECRET}@localhost/0",
        f"redis://user:{SECRET}/3@localhost/0",
        f"redis://user:x?{SECRET}=3@localhost/0",
        f"redis://user:x#{SECRET}@localhost/0",
        f"redis://user:[{SECRET}@localhost/0",
        f"redis://user:\N{ADDRESSED TO THE SUBJECT}{SECRET}@localhost/0",
        f"redis://user:{SECRET}@localhost/0?db=x",
        f"redis://user:{SECRET}@localhost/0?ssl_ca_certs=x",
    ],
)
def test_a_wrong_dsn_is_refused_without_repeating_the_secret(
    monkeypatch: pytest.MonkeyPatch, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORKER_REDIS_DSN", dsn)
    with pytest.raises(ConfigError, match="WORKER_REDIS_DSN") as caught:
        WorkerConfig.load()
    logging.getLogger("test").error("cannot start", exc_info=caught.value)
    with pytest.raises(ValidationError) as original:
        WorkerConfig()
    logging.getLogger("test").error("cannot start", exc_info=original.value)
    assert SECRET not in caplog.text
