# Owned by arq-worker-template: `copier update` overwrites edits; pass your own serializer instead.
"""How jobs and stream fields are written: JSON, never pickle.

Pickle would let anybody who can write to Redis run code in the worker. JSON job arguments come
back as JSON: a tuple as a list, a model as its fields. What JSON lacks is tagged.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import cast
from uuid import UUID

from pydantic import BaseModel

from .errors import JobFailedError, PayloadError
from .types import FieldValue, Payload, RedisArg

_TAG = "__type__"


def _encode(value: object) -> object:  # noqa: PLR0911 - a table
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case BaseException():
            return {_TAG: "error", "name": type(value).__name__, "text": str(value)}
        case datetime():
            return {_TAG: "datetime", "v": value.isoformat()}
        case date():
            return {_TAG: "date", "v": value.isoformat()}
        case timedelta():
            return {_TAG: "timedelta", "v": value.total_seconds()}
        case bytes():
            return {_TAG: "bytes", "v": base64.b64encode(value).decode()}
        case Decimal() | UUID():
            return {_TAG: type(value).__name__.lower(), "v": str(value)}
        case Enum():
            return cast("object", value.value)
        case set() | frozenset():
            return list(cast("Iterable[object]", value))
        case _:
            msg = f"{type(value).__name__} cannot be written as JSON; pass plain data or a model"
            raise PayloadError(msg)


def _decode(value: dict[str, object]) -> object:  # noqa: PLR0911 - a table
    raw = value.get("v")
    match value.get(_TAG):
        case "error":
            return JobFailedError(f"{value['name']}: {value['text']}")
        case "datetime":
            return datetime.fromisoformat(str(raw))
        case "date":
            return date.fromisoformat(str(raw))
        case "timedelta":
            return timedelta(seconds=float(str(raw)))
        case "bytes":
            return base64.b64decode(str(raw))
        case "decimal":
            return Decimal(str(raw))
        case "uuid":
            return UUID(str(raw))
        case _:
            return value


def dumps(value: object) -> bytes:
    """Write a job or a result (arq's ``job_serializer``).

    Raises:
        PayloadError: a value has no JSON form.
    """
    return json.dumps(value, default=_encode, separators=(",", ":")).encode()


def loads(data: bytes) -> dict[str, object]:
    """Read what `dumps` wrote (arq's ``job_deserializer``).

    Raises:
        PayloadError: ``data`` is not one JSON object; a pickled job of plain arq, for one.
    """
    try:
        value: object = json.loads(data, object_hook=_decode)
    except ValueError as exc:
        msg = (
            "job is not JSON (pickled by plain arq? set a job_deserializer that reads both while "
            "you migrate: docs/adopting.md of the template)"
        )
        raise PayloadError(msg) from exc
    if not isinstance(value, dict):
        msg = f"job is {type(value).__name__}, not an object"
        raise PayloadError(msg)
    return cast("dict[str, object]", value)


def text(value: object) -> str:
    """Decode a Redis string; bytes that are not UTF-8 survive the way back (`encode`)."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def encode(value: RedisArg) -> bytes:
    """Encode one field for Redis, undoing `text`."""
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


def pairs(flat: Iterable[object]) -> Payload:
    """Turn Redis's flat ``[name, value, name, value]`` into a payload."""
    values = iter(flat)
    return {text(name): text(value) for name, value in zip(values, values, strict=True)}


def flatten(fields: Mapping[str, FieldValue]) -> list[bytes]:
    """Turn a payload into the arguments of XADD.

    Raises:
        PayloadError: no fields at all, or a name or value that a stream entry cannot hold.
    """
    if not fields:
        msg = "payload has no fields"
        raise PayloadError(msg)
    flat: list[bytes] = []
    for name, value in fields.items():
        # bool is an int to isinstance, and would come back as the text "True".
        if (
            not isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
            or isinstance(value, bool)
            or not isinstance(value, str | int | float)  # pyright: ignore[reportUnnecessaryIsInstance]
        ):
            msg = (
                f"payload field {name!r} is {type(value).__name__}; "
                "use text or a number (and put nested data into one JSON field)"
            )
            raise PayloadError(msg)
        flat += (encode(name), encode(value))
    return flat
