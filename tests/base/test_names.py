"""Keys, errors and type aliases."""

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError
from workerbase import errors, keys, types
from workerbase.connect import connect, connect_sync
from workerbase.errors import InvalidEventError, TransientError, WorkerError
from workerbase.types import Ctx, Dependency, Hook, RedisClient, SyncRedisClient

unhurried = settings(deadline=None, max_examples=50)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200)


@unhurried
@given(names)
def test_the_dlq_of_a_stream_is_its_name_and_dlq(name: str) -> None:
    assert keys.dlq(name) == f"{name}:dlq"
    assert keys.parked(name) == f"{name}:parked"


@unhurried
@given(names, names)
def test_a_good_name_of_a_stream_is_returned_and_those_made_of_it_are_refused(
    name: str, other: str
) -> None:
    assert keys.check_stream_name(f"{name[:190]}x") == f"{name[:190]}x"
    for made in (keys.dlq(name[:190]), keys.parked(name[:190])):
        with pytest.raises(ValueError, match="must not end in"):
            keys.check_stream_name(made)
    if name != other:
        assert keys.requeued("s", name) != keys.requeued("s", other)
        assert keys.requeue_job_id("s", name) != keys.requeue_job_id("s", other)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "a\tb", "\x00", "x" * 201, None, b"x"])
def test_a_bad_name_of_a_stream_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="must be 1-200 characters without blanks"):
        keys.check_stream_name(name)


def all_errors() -> list[type[WorkerError]]:
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass)]
    return [e for e in found if issubclass(e, WorkerError)]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_has_the_one_base_and_stands_in_the_overview(error: type[WorkerError]) -> None:
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__
    assert error.__doc__
    assert str(error("what happened")) == "what happened"


def test_a_transient_error_carries_a_delay_or_none() -> None:
    assert TransientError("x").delay is None
    assert TransientError("x", delay=2.5).delay == 2.5


def test_an_invalid_event_says_what_is_wrong_and_not_what_it_held() -> None:
    class Order(BaseModel):
        token: int
        lines: list[int]

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"token": "hunter2", "lines": [1, "x"]})
    error = InvalidEventError.of("order", caught.value)
    assert str(error).startswith("order: token: Input should be a valid integer")
    assert "lines.1: " in str(error)
    assert "hunter2" not in str(error)
    with pytest.raises(ValidationError) as caught:
        Order.model_validate("hunter2")
    assert str(InvalidEventError.of("order", caught.value)).startswith("order: payload: Input")


async def test_the_aliases_fit_what_a_project_writes() -> None:
    async def make(ctx: Ctx) -> object:
        return SecretStr(str(ctx["x"]))

    async def hook(ctx: Ctx) -> None:
        ctx["seen"] = True

    dependency: Dependency = make
    on_startup: Hook = hook
    ctx: Ctx = {"x": 1}
    await on_startup(ctx)
    assert ctx["seen"] is True
    assert await dependency(ctx) == SecretStr("1")
    assert types.EntryId("1-0") == "1-0"


def test_the_protocols_are_met_by_the_clients_of_redis_py() -> None:
    for protocol, make in ((RedisClient, connect), (SyncRedisClient, connect_sync)):
        method = inspect.signature(protocol.execute_command)
        client = inspect.signature(inspect.signature(make).return_annotation.execute_command)
        assert method.parameters["args"].kind == client.parameters["args"].kind
        assert method.parameters["options"].kind == client.parameters["options"].kind
