"""Writes a model as JSON, and refuses one that would be read differently from how it is.

A secret is written as asterisks, an excluded field is left out, a tuple in an `Any` comes back as a
list. Most models cannot lose anything, which their schema tells once; of the others each instance
is read back and compared.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, time
from functools import cache
from typing import Any, NoReturn, cast

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..errors import PayloadError, describe_problems

SECRETS = (Secret, SecretStr, SecretBytes)
"""Types that are written as asterisks."""
MAX_DIGITS = 4_300
"""Of an integer that can be read."""


# Why instances of a model may come back different, by its schema: bits of a number.
_EXACT = 0
_SUBCLASS = 1
"""Of a subclass in a field, only the fields of the declared model are written."""
_NULL = 2
"""A number that is not finite is written as null."""
_OTHER = 4

# Values of these types of pydantic's schema come back as they were, or are not written at all.
_EXACT_TYPES = frozenset(
    {"bool", "bytes", "complex", "date", "datetime", "decimal", "int", "none", "str", "time"}
    | {"timedelta", "uuid"}
)
# These are as exact as what is in them.
_INNER = {
    "default": "schema",
    "dict": "values_schema",
    "frozenset": "items_schema",
    "list": "items_schema",
    "nullable": "schema",
    "set": "items_schema",
    "tuple": "items_schema",
}
# Options that change neither how a field or model is written nor how it is read.
_HARMLESS = frozenset({"type", "schema", "metadata", "frozen"})
_HARMLESS_OF_MODEL = _HARMLESS | {"cls", "config", "custom_init", "ref", "root_model"}
_FORMATS = frozenset(
    {"ser_json_bytes", "ser_json_temporal", "ser_json_timedelta", "val_json_bytes"}
)

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS}}}")
_UNREADABLE = (ValidationError, RecursionError)
_UNWRITABLE = (PydanticSerializationError, ValueError, RecursionError)


def dump_model(model: BaseModel, what: str) -> str:
    """Return the JSON of ``model``, from which its class reads the same model.

    Raises:
        PayloadError: names ``what`` and the field that would be lost or changed, and what to do.
    """
    try:
        written = model.model_dump_json(round_trip=True)
    except _UNWRITABLE as exc:
        _refuse_unwritable(model, exc, what)
    doubts = _doubts(type(model))
    if (
        doubts & _OTHER
        or (doubts & _NULL and "null" in written)
        or (doubts & _SUBCLASS and written != _with_subclasses(model))
        or (len(written) > MAX_DIGITS and _LONG_NUMBER.search(written))
    ):
        try:
            again = type(model).__pydantic_validator__.validate_json(written)
        except _UNREADABLE as exc:
            _refuse_unreadable(exc, what)
        check_same(model, again, what)
    return written


def check_fields(model: BaseModel, what: str) -> None:
    """Refuse a model whose fields, as plain data, do not make the same model again.

    Raises:
        PayloadError: as `dump_model`.
    """
    if not _doubts(type(model)):
        return
    try:
        plain = to_jsonable_python(model, round_trip=True)
    except _UNWRITABLE as exc:
        _refuse_unwritable(model, exc, what)
    try:
        again = type(model).model_validate(plain)
    except _UNREADABLE as exc:
        _refuse_unreadable(exc, what)
    check_same(model, again, what)


def check_same(model: BaseModel, again: BaseModel, what: str) -> None:
    """Refuse ``model`` if ``again``, which was read from its JSON, differs.

    Raises:
        PayloadError: names the first field that differs.
    """
    if model.__dict__ == again.__dict__ and not model.model_extra:
        return
    fields = type(model).model_fields
    for name in (*fields, *(model.model_extra or ())):
        value = getattr(model, name)
        if _same(value, getattr(again, name)):
            continue
        fix = (
            "it comes back as something else; give it a serializer and a validator that undo each "
            "other, or declare it as what comes back"
        )
        if name in fields and fields[name].exclude:
            fix = "it is excluded from the JSON; remove `exclude`, or make it a private attribute"
        elif _holds_secret(value):
            fix = (
                "a secret is written as asterisks; publish a reference to it, or the text itself "
                "by a field_serializer that returns its secret value"
            )
        msg = f"{what}: field {name!r} ({type(value).__name__}): {fix}"
        raise PayloadError(msg)


def _with_subclasses(model: BaseModel) -> str:
    written = model.__pydantic_serializer__.to_json(model, round_trip=True, serialize_as_any=True)
    return written.decode()


def _refuse_unwritable(model: BaseModel, error: Exception, what: str) -> NoReturn:
    """Name the field that cannot be written, and why."""
    where = what
    for name in type(model).model_fields:
        try:
            model.model_dump_json(round_trip=True, include={name})
        except _UNWRITABLE:
            where = f"{what}: field {name!r} ({type(getattr(model, name)).__name__})"
            break
    msg = f"{where} cannot be written as JSON: {error}; text must be valid UTF-8, bytes as well "
    msg += "unless ser_json_bytes and val_json_bytes of the model are 'base64'"
    raise PayloadError(msg) from error


def _refuse_unreadable(error: Exception, what: str) -> NoReturn:
    problems = "too many levels"
    if isinstance(error, ValidationError):
        problems = describe_problems(error)
    msg = (
        f"{what} cannot be read again from its JSON: {problems}; give the field a serializer that "
        "writes what it reads, or another type"
    )
    raise PayloadError(msg) from None


@cache
def _doubts(model: type[BaseModel]) -> int:
    return _doubts_of_model(cast("dict[str, Any]", model.__pydantic_core_schema__))


def _doubts_of_model(schema: dict[str, Any]) -> int:
    config, inner = schema.get("config", {}), schema.get("schema", {})
    if (
        schema["type"] != "model"
        or inner["type"] != "model-fields"
        or schema.keys() - _HARMLESS_OF_MODEL
        or schema.get("custom_init")
        or config.get("extra_fields_behavior") == "allow"
        or _FORMATS & config.keys()
    ):
        return _OTHER
    fields = inner["fields"].values()
    if any(field.keys() - _HARMLESS for field in fields):
        return _OTHER
    return _all_doubts((field["schema"] for field in fields), config)


def _all_doubts(schemas: Iterable[dict[str, Any]], config: Mapping[str, Any]) -> int:
    doubts = _EXACT
    for schema in schemas:
        doubts |= _doubts_of_value(schema, config)
    return doubts


def _doubts_of_value(schema: dict[str, Any], config: Mapping[str, Any]) -> int:
    kind = schema["type"]
    doubts = _OTHER
    if "serialization" in schema:
        pass
    elif kind in _EXACT_TYPES:
        doubts = _EXACT
    elif kind == "model":
        doubts = _SUBCLASS | _doubts_of_model(schema)
    elif kind == "float":
        doubts = _EXACT if config.get("ser_json_inf_nan") == "strings" else _NULL
    elif kind in ("enum", "literal"):
        values = schema.get("expected") or [member.value for member in schema["members"]]
        doubts = _EXACT if all(isinstance(value, str) for value in values) else _OTHER
    elif kind == "dict" and schema.get("keys_schema", {}).get("type") != "str":
        pass
    elif (inner := schema.get(_INNER.get(kind, ""))) and not _is_bad_default(schema):
        several = cast("list[dict[str, Any]]", inner if isinstance(inner, list) else [inner])
        doubts = _all_doubts(several, config)
    return doubts


def _is_bad_default(schema: dict[str, Any]) -> bool:
    """Whether the default is None where None would not be read: defaults are not validated."""
    default = schema.get("default", "")
    return (
        schema["type"] == "default" and default is None and schema["schema"]["type"] != "nullable"
    )


def _holds_secret(value: object) -> bool:
    inner: Iterable[object] = ()
    if isinstance(value, Mapping):
        inner = cast("Mapping[object, object]", value).values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = cast("Iterable[object]", value)
    elif isinstance(value, BaseModel):
        inner = (getattr(value, name) for name in type(value).model_fields)
    return isinstance(value, SECRETS) or any(map(_holds_secret, inner))


def _same(value: object, again: object) -> bool:
    """Whether two values are the same, those included that Python does not call equal."""
    same = value == again
    if same or type(value) is not type(again):
        return same
    one, other = cast("Any", value), cast("Any", again)
    if isinstance(value, BaseModel):
        same = all(_same(getattr(one, n), getattr(other, n)) for n in type(value).model_fields)
    elif isinstance(value, float):
        same = math.isnan(one) and math.isnan(other)
    elif isinstance(value, datetime | time):  # in the hour that comes twice a year
        same = one.isoformat() == other.isoformat()
    elif isinstance(value, Mapping):
        same = one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    elif isinstance(value, list | tuple):
        same = len(one) == len(other) and all(map(_same, one, other))
    return same
