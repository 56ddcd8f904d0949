"""Settings of a project's own are read like ours, and what is wrong is said in a sentence."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field
from pydantic_settings import NoDecode, SettingsConfigDict
from workerbase.base import BaseArqWorkerSettings
from workerbase.config import WorkerConfig, health_path
from workerbase.errors import ConfigError
from workerbase.telemetry.config import TelemetryConfig


class Mail(BaseModel):
    host: str = "localhost"
    port: int = 25


class Mine(WorkerConfig):
    """A project's settings, of each kind that pydantic knows."""

    api_key: str
    hosts: list[str] = Field(default=[])
    shares: dict[str, int] = Field(default_factory=lambda: {"eu": 1})
    numbers: set[int] | None = None
    database_url: str = Field(default="postgresql://localhost", validation_alias="DATABASE_URL")
    region: str = Field(default="eu", validation_alias=AliasChoices("REGION", "AWS_REGION"))
    first: str = Field(default="", validation_alias=AliasPath("FIRST", 0))
    raw: Annotated[list[str], NoDecode] = Field(default=[])
    mail: Mail = Mail()


class Nested(Mine):
    model_config = SettingsConfigDict(env_nested_delimiter="__")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORKER_HEALTH_FILE")
    monkeypatch.setenv("WORKER_API_KEY", "key")


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("WORKER_HOSTS", "a, b", "hosts", ["a", "b"]),
        ("WORKER_HOSTS", "a", "hosts", ["a"]),
        ("WORKER_HOSTS", "1", "hosts", ["1"]),
        ("WORKER_HOSTS", '["a", "b,c"]', "hosts", ["a", "b,c"]),
        ("WORKER_HOSTS", "", "hosts", []),
        ("WORKER_HOSTS", "[]", "hosts", []),
        ("WORKER_NUMBERS", "1,2", "numbers", {1, 2}),
        ("WORKER_NUMBERS", "5", "numbers", {5}),
        ("WORKER_SHARES", '{"us": 2}', "shares", {"us": 2}),
        ("WORKER_SHARES", "", "shares", {"eu": 1}),
        ("DATABASE_URL", "sqlite://", "database_url", "sqlite://"),
        ("AWS_REGION", "us", "region", "us"),
        ("FIRST", '["x", "y"]', "first", "x"),
        ("WORKER_MAIL", '{"port": 26}', "mail", Mail(port=26)),
    ],
)
def test_a_value_is_written_as_everybody_writes_it(
    monkeypatch: pytest.MonkeyPatch,
    *,
    place: str,
    variable: str,
    text: str,
    name: str,
    value: object,
) -> None:
    if place == "file":
        Path(".env").write_text(f"{variable}='{text}'\n", "utf-8")
    else:
        monkeypatch.setenv(variable, text)
    assert getattr(Mine.load(), name) == value


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(
    ("kind", "variable", "text", "problem"),
    [
        (Mine, "WORKER_API_KEY", "", "Field required"),
        (Mine, "WORKER_HOSTS", '["a"', "Input should be a valid list"),
        (Mine, "WORKER_NUMBERS", "1,x", "1: Input should be a valid integer"),
        (Mine, "WORKER_SHARES", "a,b", "Input should be a valid dictionary"),
        (Mine, "WORKER_SHARES", '{"a": "b"}', "a: Input should be a valid integer"),
        (Mine, "WORKER_RAW", "a,b", "Input should be a valid list"),
        (Mine, "WORKER_MAIL", '{"port": "x"}', "port: Input should be a valid integer"),
        (Nested, "WORKER_MAIL__PORT", "x", "Input should be a valid integer"),
        (Nested, "WORKER_HOSTS", '["a", {}]', "1: Input should be a valid string"),
    ],
)
def test_a_wrong_value_names_its_variable_and_the_place_in_it(
    monkeypatch: pytest.MonkeyPatch,
    *,
    place: str,
    kind: type[Mine],
    variable: str,
    text: str,
    problem: str,
) -> None:
    if place == "file":
        monkeypatch.delenv(variable, raising=False)
        Path(".env").write_text(f"{variable}='{text}'\n", "utf-8")
    else:
        monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        kind.load()
    assert f"invalid:\n  {variable}: {problem}" in str(caught.value)


def test_a_setting_with_an_alias_is_named_by_the_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    class Aliased(WorkerConfig):
        port: int = Field(validation_alias="DATABASE_PORT")
        size: int = Field(default=1, validation_alias=AliasChoices("POOL_SIZE", "WORKER_POOL"))
        rank: int = Field(default=1, validation_alias=AliasPath("RANKS", 0))

    for name in ("POOL_SIZE", "RANKS"):
        monkeypatch.setenv(name, '["x"]')
    with pytest.raises(ConfigError) as caught:
        Aliased.load()
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "  DATABASE_PORT", "  POOL_SIZE", "  RANKS",
    ]  # fmt: skip
    assert {"port": "DATABASE_PORT", "size": "POOL_SIZE", "max_jobs": "WORKER_MAX_JOBS"}.items() < (
        Aliased.variables().items()
    )


def test_variables_of_nested_settings_and_aliases_are_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORKER_API_KEY")
    for name in ("WORKER_MAIL__PORT", "WORKER_MAIL", "WORKER_REGION", "REGION"):
        monkeypatch.setenv(name, "1")
    assert Nested.unknown_variables() == []
    assert Mine.unknown_variables() == [
        "WORKER_MAIL__PORT is not a setting; did you mean WORKER_METRICS_PORT?"
    ]


def test_a_mistyped_argument_is_refused_with_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"^redis_dns is not a setting of WorkerConfig; did you "):
        WorkerConfig(redis_dns="redis://h")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^xyzzy is not a setting of TelemetryConfig$"):
        TelemetryConfig.model_validate({"xyzzy": 1})
    assert Mine.model_validate({"DATABASE_URL": "x", "hosts": ["h"]}).database_url == "x"


def test_a_settings_class_keeps_settings_of_each_kind() -> None:
    own = Nested.model_validate({"api_key": "k", "mail": {"port": 1}, "DATABASE_URL": "d"})

    class Own(BaseArqWorkerSettings):
        config = own
        max_jobs = 9

    assert Own.config == own.model_copy(update={"max_jobs": 9})


TEXT = "# schön\nWORKER_MAX_JOBS=7\nWORKER_HEALTH_FILE=/run/h\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_may_begin_with_a_byte_order_mark(encoding: str, newline: str) -> None:
    text = TEXT.removeprefix("# schön\n").replace("\n", newline)
    Path(".env").write_bytes(text.encode(encoding))
    assert Mine.load().max_jobs == 7
    assert health_path() == "/run/h"
    assert Mine.unknown_variables() == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    text = TEXT.encode(encoding)
    if encoding == "utf-16-le":
        text = TEXT.replace("ö", "o").encode(encoding)
    Path(".env").write_bytes(text)
    for read in (Mine.load, health_path, Mine.unknown_variables):
        with pytest.raises(ConfigError) as caught:
            read()
        assert str(caught.value) == f"{tmp_path / '.env'} is not UTF-8: save it in this encoding"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=rf"^cannot read {tmp_path}/.env: Is a directory$"):
        Mine.load()


def test_the_file_belongs_to_other_programs_too() -> None:
    Path(".env").write_text("WORKER_XYZZY=1\nPASSWORD=x\nWORKER_MAX_JOBS=3\n", "utf-8")
    assert Mine.load().max_jobs == 3
