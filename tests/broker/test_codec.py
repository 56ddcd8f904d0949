"""The format of jobs and fields: it comes back as it was, and is never a pickle."""

import json
import math
import pickle
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from arq.jobs import (
    DeserializationError,
    SerializationError,
    deserialize_job,
    deserialize_result,
    serialize_job,
    serialize_result,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from workerbase.broker import codec
from workerbase.errors import JobFailedError, PayloadError

unhurried = settings(deadline=None, max_examples=40)
zones = st.none() | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=zones).map(lambda d: d.replace(fold=0))
    | st.dates()
    | st.timedeltas()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Kind(StrEnum):
    A = "a"


class Order(BaseModel):
    id: int
    at: datetime


@dataclass
class Point:
    x: int
    at: date


@unhurried
@given(st.dictionaries(st.text(), values))
def test_what_is_written_comes_back_with_its_types(job: dict[str, Any]) -> None:
    back = codec.loads(codec.dumps(job))
    assert back == job
    assert repr(back) == repr(job)


@unhurried
@given(st.lists(scalars, max_size=5), st.dictionaries(st.text(), scalars, max_size=5))
def test_a_job_of_arq_survives(args: list[Any], kwargs: dict[str, Any]) -> None:
    data = serialize_job("work", tuple(args), kwargs, 2, 1_000, serializer=codec.dumps)
    job = deserialize_job(data, deserializer=codec.loads)
    assert (job.function, list(job.args), job.kwargs, job.job_try) == ("work", args, kwargs, 2)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (frozenset([UUID(int=1)]), [UUID(int=1)]),
        (deque([1]), [1]),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Kind.A, "a"),
        (Order(id=1, at=datetime(2026, 1, 2, tzinfo=UTC)), {"id": 1, "at": "2026-01-02T00:00:00Z"}),
        (Point(1, date(2026, 1, 2)), {"x": 1, "at": "2026-01-02"}),
        ({1: "x"}, {"1": "x"}),
    ],
)
def test_what_json_cannot_express_comes_back_as_plain_data(value: object, back: object) -> None:
    assert codec.loads(codec.dumps({"v": value}))["v"] == back


def test_an_exception_comes_back_as_a_failed_job_with_name_and_text() -> None:
    result = serialize_result(
        "work", (), {}, 1, 2, False, KeyError("x"), 3, 4, "ref", "q", "id", serializer=codec.dumps
    )
    assert result is not None
    back = deserialize_result(result, deserializer=codec.loads)
    assert isinstance(back.result, JobFailedError)
    assert str(back.result) == "KeyError: 'x'"


def test_an_exception_with_a_text_of_any_size_makes_a_small_result() -> None:
    written = codec.dumps({"r": ValueError("x" * 10_000_000)})
    assert len(written) < 2_000
    assert "10,000,000 characters" in str(codec.loads(written)["r"])


def test_floats_that_are_not_json_survive() -> None:
    back = codec.loads(codec.dumps({"v": [math.inf, math.nan]}))["v"]
    assert isinstance(back, list)
    assert back[0] == math.inf
    assert math.isnan(back[1])


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    "value",
    [object(), lambda: None, {(1, 2): 3}, circle(), pytest],
    ids=["object", "function", "tuple as a key", "circle", "module"],
)
def test_what_has_no_json_form_is_refused_when_it_is_written(value: object) -> None:
    with pytest.raises(PayloadError, match="cannot be written as JSON"):
        codec.dumps({"v": value})
    with pytest.raises(SerializationError):
        serialize_job("work", (value,), {}, None, 1, serializer=codec.dumps)


class Bomb:
    """Unpickling it fails the test: that would run code of whoever can write to Redis."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"f": "work"}),
        pickle.dumps(Bomb()),
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"__type__": "datetime", "v": "yesterday"}',
        b'{"a": {"__type__": "decimal", "v": "x"}}',
        b'{"a": {"__type__": "uuid", "v": 3}}',
        b'{"a": {"__type__": "bytes", "v": "a"}}',
        b'{"a": {"__type__": "timedelta", "v": 1e300}}',
        b'{"a": {"__type__": "os.system", "v": "true"}}',
        b'{"a": {"__type__": [], "v": "true"}}',
    ],
)
def test_what_is_not_a_job_of_ours_is_refused_when_it_is_read(data: bytes) -> None:
    with pytest.raises(PayloadError, match="pickled by plain arq"):
        codec.loads(data)
    with pytest.raises(DeserializationError):
        deserialize_job(data, deserializer=codec.loads)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b'{"__type__": "uuid", "v": "%032x"}' % 1])
def test_json_that_is_not_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="not an object"):
        codec.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        {"__type__": "timedelta", "v": "1e999990"},  # a minute of work, if it were read
        {"__type__": "timedelta", "v": "-1e999990"},
        {"__type__": "timedelta", "v": "1e99999999999"},
        {"__type__": "timedelta", "v": "NaN"},
        {"__type__": "timedelta", "v": "86399999999999.9999991"},
        {"__type__": "builtins.eval", "v": "1"},
        {"__type__": "uuid", "v": ["x"]},
    ],
)
def test_a_tagged_value_that_cannot_be_one_is_refused(data: object) -> None:
    with pytest.raises(PayloadError):
        codec.loads(json.dumps({"a": data}).encode())


@pytest.mark.parametrize("data", ["[" * 100_000 + "]" * 100_000, "9" * 5_000])
def test_json_that_is_made_to_be_hard_is_refused(data: str) -> None:
    with pytest.raises(PayloadError):
        codec.loads(f'{{"a": {data}}}'.encode())


@pytest.mark.parametrize("value", [timedelta.max, timedelta.min])
def test_the_longest_times_survive(value: timedelta) -> None:
    assert codec.loads(codec.dumps({"a": value})) == {"a": value}


def test_a_dict_that_only_resembles_a_tagged_value_is_left_alone() -> None:
    job = {"a": {"__type__": "datetime"}, "b": {"v": 1}, "c": {"__type__": "x", "v": 1, "w": 2}}
    assert codec.loads(json.dumps(job).encode()) == job


# --- fields of stream entries


@unhurried
@given(st.binary())
def test_bytes_of_a_stream_survive_decoding_whatever_they_are(raw: bytes) -> None:
    assert codec.encode(codec.decode(raw)) == raw


@unhurried
@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(), min_size=1))
def test_a_payload_comes_back_as_text(fields: dict[str, Any]) -> None:
    assert codec.decode_fields(codec.encode_fields(fields)) == {
        k: str(v) for k, v in fields.items()
    }


def test_bytes_are_kept_and_numbers_become_text() -> None:
    assert codec.encode(b"\xff") == b"\xff"
    assert codec.encode(1.5) == b"1.5"
    assert codec.decode(7) == "7"


def test_every_name_needs_a_value() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        codec.decode_fields([b"name"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no fields"),
        ({"a": None}, "'a' is NoneType"),
        ({"a": True}, "'a' is bool"),
        ({"a": [1]}, "'a' is list"),
        ({"a": b"x"}, "'a' is bytes"),
        ({1: "x"}, "field 1 is"),
        ({"a": "\ud800"}, "surrogates"),
    ],
)
def test_what_a_stream_entry_cannot_hold_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        codec.encode_fields(fields)
