"""A renamed setting is read under both names, as CONTRIBUTING describes, and so is a field."""

import sys
from pathlib import Path

import pytest
from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict
from workerbase.base import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.errors import ConfigError
from workerbase.streams import Event


class Renamed(WorkerConfig):
    """As the base looks after a release that renamed ``parallel_jobs``."""

    max_jobs: int = Field(
        default=20,
        ge=1,
        validation_alias=AliasChoices("WORKER_MAX_JOBS", "WORKER_PARALLEL_JOBS"),
    )


@pytest.fixture(autouse=True)
def _without_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["WORKER_PARALLEL_JOBS", "worker_parallel_jobs", "WORKER_MAX_JOBS", "worker_max_jobs"]
)
def test_a_variable_is_read_under_either_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    assert Renamed.load().max_jobs == 7
    assert Renamed.unknown_variables() == []


def test_the_env_file_may_have_the_former_name_and_the_environment_takes_precedence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("WORKER_PARALLEL_JOBS=7\n", encoding="utf-8")
    assert Renamed.load().max_jobs == 7
    assert Renamed.unknown_variables() == []
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "8")
    assert Renamed.load().max_jobs == 8


@pytest.mark.parametrize("name", ["WORKER_PARALLEL_JOBS", "WORKER_MAX_JOBS"])
def test_a_wrong_value_under_either_name_is_refused_with_the_current_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match=r"(?m)^  WORKER_MAX_JOBS: Input should be greater"):
        Renamed.load()


def test_both_variables_may_be_set_so_that_old_and_new_workers_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "7")
    monkeypatch.setenv("WORKER_MAX_JOBS", "8")
    assert Renamed.load().max_jobs == 8


def test_code_uses_the_name_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "7")
    assert Renamed(max_jobs=5).max_jobs == 5
    assert Renamed.model_validate({"max_jobs": 5}).max_jobs == 5
    assert Renamed.model_validate(Renamed.load().model_dump()).max_jobs == 7


def test_a_settings_class_overrides_a_renamed_setting_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_PARALLEL_JOBS", "7")

    class Read(BaseArqWorkerSettings):
        config = Renamed.load()

    class Own(Read):
        max_jobs = 9

    assert (Read.max_jobs, Own.max_jobs) == (7, 9)


def test_a_project_with_a_prefix_of_its_own_may_use_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shop(Renamed):
        model_config = SettingsConfigDict(env_prefix="SHOP_")

    monkeypatch.setenv("SHOP_MAX_JOBS", "3")
    assert Shop.load().max_jobs == 3


def test_a_field_of_an_event_may_be_read_under_both_names() -> None:
    class OrderPaid(Event, type="order.paid", stream="orders"):
        total: int = Field(validation_alias=AliasChoices("total", "amount_cents"))

    for data in ('{"amount_cents": 7}', '{"total": 7}', OrderPaid(total=7).model_dump_json()):
        assert OrderPaid.model_validate_json(data).total == 7


def test_the_machinery_for_renames_is_gone() -> None:
    assert not any(name.startswith("workerbase.renames") for name in sys.modules)
    with pytest.raises(ModuleNotFoundError):
        __import__("workerbase.renames")
