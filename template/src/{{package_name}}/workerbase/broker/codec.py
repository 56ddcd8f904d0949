"""How jobs and stream fields are written: JSON, never pickle.

Pickle would let anybody who can write to Redis run code in the worker. JSON job arguments come
back as JSON: a tuple or a set as a list, a model as its fields. What JSON lacks is written as
``{"__type__": name, "v": text}``; what would be read as something else is refused (`arguments`).
"""

import contextlib
import json
from asyncio import CancelledError
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from pydantic_core import to_jsonable_python

from ..engine.failure_record import text_of
from ..errors import JobFailedError, PayloadError
from ..types import Fields, Payload, RedisArg

MAX_PAYLOAD_BYTES = 1_048_576
"""Default limit of a job or event, in bytes."""

REST = "_rest"
MAX_FIELDS, MAX_OWN_FIELDS = 3_500, 100
"""Of an entry that we write: a script can pass no more than 8,000 values on. Others can write
larger ones, which have to find their way into the dead-letter queue: what no event of ours has
goes into the field `REST`."""

_MICROSECOND = timedelta(microseconds=1)


def _seconds(value: timedelta) -> Decimal:
    return Decimal(value // _MICROSECOND).scaleb(-6)


def _timedelta(seconds: object) -> timedelta:
    value = Decimal(str(seconds))
    # Before it becomes an int: that of "1e999990" would take the event loop a minute.
    if abs(value) > _seconds(timedelta.max):
        raise OverflowError
    return _MICROSECOND * int(value.scaleb(6))


# name, type, how it is written and how it is read; a datetime is a date, too, and comes first.
_TAGGED: tuple[tuple[str, type[Any], Callable[[Any], object], Callable[[Any], object]], ...] = (
    ("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("date", date, date.isoformat, date.fromisoformat),
    # In seconds, as the first release wrote and reads it; as text, since a float is not exact.
    ("timedelta", timedelta, lambda v: str(_seconds(v)), _timedelta),
    ("bytes", bytes, lambda v: b64encode(v).decode(), b64decode),
    ("decimal", Decimal, str, Decimal),
    ("uuid", UUID, str, UUID),
)
_READ = {name: read for name, _, _, read in _TAGGED}


def _to_tagged(value: object) -> object:
    if isinstance(value, BaseException):
        return {"__type__": "error", "name": type(value).__name__, "text": text_of(value)}
    for name, kind, write, _ in _TAGGED:
        if isinstance(value, kind):
            return {"__type__": name, "v": write(value)}
    if isinstance(value, set | frozenset):
        return list(cast("set[object]", value))
    return to_jsonable_python(value)


def is_tagged(value: dict[str, Any]) -> bool:
    """Whether a dict is read as the value of another type."""
    return value.keys() == {"__type__", "v"} or (
        value.keys() == {"__type__", "name", "text"} and value["__type__"] == "error"
    )


def _from_tagged(value: dict[str, Any]) -> object:
    if not is_tagged(value):
        return value
    if "name" in value:
        # By this one arq knows that a job was aborted.
        aborted = value["name"] == CancelledError.__name__
        return CancelledError() if aborted else JobFailedError(f"{value['name']}: {value['text']}")
    return _READ[value["__type__"]](value["v"])


# json's functions would make these anew for each job.
_ENCODER = json.JSONEncoder(default=_to_tagged, separators=(",", ":"))
_DECODER = json.JSONDecoder(object_hook=_from_tagged)


def dumps(value: object) -> bytes:
    """Write a job or a result (arq's ``job_serializer``).

    Raises:
        PayloadError: a value has no JSON form.
    """
    try:
        return _ENCODER.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        msg = f"cannot be written as JSON; pass plain data or a model: {exc}"
        raise PayloadError(msg) from exc


def loads(data: bytes) -> dict[str, object]:
    """Read what `dumps` wrote (arq's ``job_deserializer``).

    Raises:
        PayloadError: ``data`` is not one JSON object; a pickled job of plain arq, for one.
    """
    try:
        value: object = _DECODER.decode(data.decode("utf-8", "surrogatepass"))
    except Exception as exc:
        msg = (
            "job is not JSON (pickled by plain arq? set a job_deserializer that reads both while "
            "you migrate: docs/adopting.md of the template)"
        )
        raise PayloadError(msg) from exc
    if not isinstance(value, dict):
        msg = f"job is {type(value).__name__}, not an object"
        raise PayloadError(msg)
    return cast("dict[str, object]", value)


def to_display_json(value: object) -> str:
    """Write ``value`` as JSON to be looked at: what has no JSON form becomes its ``repr``."""

    def lenient(item: object) -> object:
        for show in (_to_tagged, repr):
            with contextlib.suppress(BaseException):
                return show(item)
        return object.__repr__(item)

    try:
        written = json.dumps(value, default=lenient, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # a key that is not text, or a cycle
        written = json.dumps(repr(value))
    # JSON's way to write what UTF-8 cannot hold.
    return written.encode("utf-8", "backslashreplace").decode()


def decode(value: object) -> str:
    """Decode a Redis string; bytes that are not UTF-8 survive the way back (`encode`)."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def encode(value: RedisArg) -> bytes:
    """Encode one field for Redis, undoing `text`."""
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


def check_size(what: str, written: Iterable[bytes], max_bytes: int) -> None:
    """Refuse what is larger than ``max_bytes``.

    Raises:
        PayloadError: names ``what``, its size and the limit.
    """
    size = sum(map(len, written))
    if size > max_bytes:
        msg = (
            f"{what} has {size:,} bytes, and WORKER_MAX_PAYLOAD allows {max_bytes:,}; store large "
            "data elsewhere and pass a reference"
        )
        raise PayloadError(msg)


def decode_fields(flat: Iterable[object]) -> Payload:
    """Turn Redis's flat ``[name, value, name, value]`` into a payload."""
    values = iter(flat)
    return {decode(name): decode(value) for name, value in zip(values, values, strict=True)}


def _folded(fields: Fields) -> Fields:
    """Put all but what the base reads into one field, as JSON."""
    own = [n for n in fields if n in ("type", "data") or n.startswith("_")][:MAX_OWN_FIELDS]
    rest = {n: value for n, value in fields.items() if n not in own}
    return {n: fields[n] for n in own} | {REST: json.dumps(rest, ensure_ascii=False)}


def encode_fields(fields: Fields) -> list[bytes]:
    """Turn a payload into the arguments of XADD, with no more than `MAX_FIELDS` fields.

    Raises:
        PayloadError: no fields at all, or a name or value that a stream entry cannot hold.
    """
    if not fields:
        raise PayloadError("payload has no fields")
    if len(fields) > MAX_FIELDS:
        fields = _folded(fields)
    flat: list[bytes] = []
    for name, value in cast("Mapping[object, object]", fields).items():
        # bool is an int to isinstance, and would come back as the text "True".
        if (
            not isinstance(name, str)
            or isinstance(value, bool)
            or not isinstance(value, str | int | float)
        ):
            msg = (
                f"payload field {name!r} is {type(value).__name__}; "
                "use text or a number (and put nested data into one JSON field)"
            )
            raise PayloadError(msg)
        try:
            flat += (encode(name), encode(value))
        except UnicodeEncodeError as exc:
            msg = f"payload field {name!r} is not text that Redis can hold: {exc.reason}"
            raise PayloadError(msg) from exc
    return flat
