"""Arguments of a job arrive as JSON, or the job is refused where it is enqueued."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr, computed_field
from workerbase import WorkerConfig
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.broker.enqueue import NewJob
from workerbase.delivery.arq import ArqAdapter
from workerbase.errors import PayloadError
from workerbase.testing.redis_server import Server
from workerbase.types import Call


class Login(BaseModel):
    user: str
    password: SecretStr


class Note(BaseModel):
    text: str
    internal: int = Field(0, exclude=True)


class Area(BaseModel):
    side: float = Field(alias="Side")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> float:
        return self.side**2


@dataclass
class Account:
    name: str
    pin: SecretBytes


def new_job(*args: object, **kwargs: Any) -> NewJob:
    options = {"_max_payload_bytes": codec.MAX_PAYLOAD_BYTES, "_queue_name": "q"}
    return NewJob.create("login", *args, **options, **kwargs)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (SecretStr("pw"), "asterisks"),
        ([{"a": (SecretStr("pw"),)}], "asterisks"),
        (Login(user="u", password=SecretStr("pw")), "'password'.*asterisks"),
        ({"login": Login(user="u", password=SecretStr("pw"))}, "'password'.*asterisks"),
        (Account("a", SecretBytes(b"pw")), "asterisks"),
        (Note(text="a", internal=5), "'internal'.*excluded"),
        ({1: "a"}, "text keys"),
        ([{(1, 2): "a"}], "text keys"),
        ({"__type__": "bytes", "v": 3}, "marks other types"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_that_would_change_is_refused_by_job_and_name(value: object, why: str) -> None:
    for args, kwargs, name in (((1, value), {}, "2"), ((), {"data": value}, "data")):
        with pytest.raises(PayloadError, match=f"^job login: argument {name}.*{why}") as raised:
            new_job(*args, **kwargs)
        assert "pw" not in str(raised.value)
    with pytest.raises(PayloadError, match=why):
        NewJob.create(Call("login", (value,), {}), _max_payload_bytes=1_000, _queue_name="q")


def test_data_and_models_arrive_as_they_did() -> None:
    area = Area(Side=float("inf"))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    job = codec.loads(new_job(area, [at, {"a": {1, 2}}], Note(text="a"), b"\xff").job)
    assert job["a"] == [
        {"Side": float("inf"), "size": float("inf")},
        [at, {"a": [1, 2]}],
        {"text": "a"},
        b"\xff",
    ]


def test_a_serializer_of_the_project_decides_for_itself() -> None:
    new_job({1: "a"}, _serializer=None)  # arq's own: pickle


async def test_a_job_that_is_refused_is_not_enqueued(
    server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    config = config_for(server)
    async with ArqAdapter(config) as adapter:
        with pytest.raises(PayloadError, match="asterisks"):
            adapter.enqueue_sync("login", SecretStr("pw"))
        with pytest.raises(PayloadError, match="asterisks"):
            await adapter.enqueue("login", data=Login(user="u", password=SecretStr("pw")))
    client = connect(config.dsn)
    assert await client.keys() == []
    await client.aclose(close_connection_pool=True)
