"""A renamed setting is taken under its former name, which is said to be one, until a release."""

import logging
from pathlib import Path

import pytest
from pydantic import AliasChoices, Field
from workerbase import renames
from workerbase.base import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.errors import ConfigError
from workerbase.events import Event
from workerbase.renames import Renamed


@pytest.fixture(autouse=True)
def _renamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pretend that a release renamed parallel_jobs and group."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(renames, "_told", set())
    monkeypatch.setitem(renames.SETTINGS, "parallel_jobs", Renamed("max_jobs", "2.0.0"))
    monkeypatch.setitem(renames.SETTINGS, "group", Renamed("consumer_group", "2.1.0"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


JOBS = "WORKER_PARALLEL_JOBS is WORKER_MAX_JOBS now; the old name works until release 2.0.0"


@pytest.mark.parametrize("name", ["WORKER_PARALLEL_JOBS", "worker_parallel_jobs"])
def test_a_variable_with_the_former_name_is_taken_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "7")

    assert WorkerConfig.load().max_jobs == WorkerConfig.load().max_jobs == 7
    assert said(caplog) == [JOBS]
    assert WorkerConfig.unknown_variables() == []


def test_env_file_may_have_the_former_name_and_the_environment_goes_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_text("WORKER_PARALLEL_JOBS=7\n", encoding="utf-8")
    assert WorkerConfig.load().max_jobs == 7
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "8")
    assert WorkerConfig.load().max_jobs == 8
    assert said(caplog) == [JOBS]


def test_a_wrong_value_under_the_former_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "0")
    with pytest.raises(ConfigError, match="WORKER_MAX_JOBS: "):
        WorkerConfig.load()


def test_both_variables_must_agree_so_that_old_and_new_workers_can_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "7")
    monkeypatch.setenv("WORKER_MAX_JOBS", "7")
    assert WorkerConfig.load().max_jobs == 7
    monkeypatch.setenv("WORKER_MAX_JOBS", "8")
    with pytest.raises(
        ConfigError,
        match=r"^WORKER_PARALLEL_JOBS is the former name of WORKER_MAX_JOBS; set only the latter$",
    ):
        WorkerConfig.load()


def test_a_default_of_the_project_moves_to_the_new_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Config(WorkerConfig):
        group: str = "ours"

    class More(Config):
        colour: str = "red"

    for config in (Config.load(), More.load()):
        assert config.consumer_group == "ours"
    assert set(More.model_fields) == {*WorkerConfig.model_fields, "colour"}
    assert said(caplog) == [
        "Config.group is Config.consumer_group now; the old name works until release 2.1.0"
    ]

    monkeypatch.setenv("WORKER_CONSUMER_GROUP", "new")
    assert More.load().consumer_group == "new"
    monkeypatch.delenv("WORKER_CONSUMER_GROUP")
    monkeypatch.setenv("WORKER_GROUP", "old")
    assert More.load().consumer_group == "old"
    assert WorkerConfig.load().consumer_group == "old"


def test_code_may_make_and_read_a_configuration_by_the_former_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = WorkerConfig.model_validate({"group": "ours"})

    assert (config.consumer_group, getattr(config, "group")) == ("ours", "ours")  # noqa: B009
    (message,) = said(caplog)
    assert message.startswith("WorkerConfig.group is WorkerConfig.consumer_group now; ")
    with pytest.raises(ConfigError, match="former name"):
        WorkerConfig.model_validate({"group": "ours", "consumer_group": "theirs"})
    with pytest.raises(AttributeError, match="grupp"):
        getattr(config, "grupp")  # noqa: B009


def test_a_worker_settings_class_and_its_mixins_may_use_the_former_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mixin:
        parallel_jobs = 7

    class Settings(Mixin, BaseArqWorkerSettings):
        pass

    class Sub(Settings):
        job_timeout = 5

    assert (Settings.max_jobs, Sub.max_jobs) == (7, 7)
    assert said(caplog) == [
        "Mixin.parallel_jobs is Mixin.max_jobs now; the old name works until release 2.0.0"
    ]
    with pytest.raises(ConfigError, match=r"^Both\.parallel_jobs is the former name of Both\."):

        class Both(BaseArqWorkerSettings):
            parallel_jobs = 7
            max_jobs = 8


def test_a_field_of_an_event_may_take_both_names() -> None:
    class OrderPaid(Event, type="order.paid", stream="orders"):
        total: int = Field(validation_alias=AliasChoices("total", "amount_cents"))

    for data in ('{"amount_cents": 7}', '{"total": 7}', OrderPaid(total=7).model_dump_json()):
        assert OrderPaid.model_validate_json(data).total == 7
