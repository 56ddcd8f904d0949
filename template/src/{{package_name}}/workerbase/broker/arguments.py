"""Refuses arguments of a job that a worker would read differently from how they are.

JSON arguments come back as JSON, a tuple as a list and a model as its fields (`codec`): that is
what a task expects. A value that is lost or becomes another one is an error of the caller.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from ..errors import PayloadError
from .codec import is_tagged
from .model_json import SECRETS, check_fields

_SCALARS = frozenset({bool, bytes, float, int, str, type(None)})


def check_arguments(what: str, arguments: Mapping[str | int, object]) -> None:
    """Check the arguments of a job, by name.

    Raises:
        PayloadError: names ``what``, the argument and what to pass instead.
    """
    for name, value in arguments.items():
        if type(value) not in _SCALARS:
            _check(value, f"{what}: argument {name}")


def _check(value: object, where: str) -> None:
    if isinstance(value, SECRETS):
        kind = cast("object", value).__class__.__name__
        msg = (
            f"{where} is {kind}, which is written as asterisks; pass a reference "
            "to the secret, or the text itself by get_secret_value()"
        )
        raise PayloadError(msg)
    inner: Iterable[object] = ()
    if isinstance(value, BaseModel):
        check_fields(value, where)
    elif isinstance(value, dict):
        inner = _checked_dict(cast("dict[object, object]", value), where).values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = cast("Iterable[object]", value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for item in inner:
        if type(item) not in _SCALARS:
            _check(item, where)


def _checked_dict(value: dict[object, Any], where: str) -> dict[object, Any]:
    for key in value:
        if not isinstance(key, str):
            msg = (
                f"{where} is a dict with the key {key!r:.80}, which is {type(key).__name__}: JSON "
                "has only text keys; use text, or pass a list of pairs"
            )
            raise PayloadError(msg)
    if is_tagged(cast("dict[str, Any]", value)):
        msg = (
            f"{where} is a dict with the keys {', '.join(sorted(map(str, value)))}, by which the "
            "base marks other types; name them differently"
        )
        raise PayloadError(msg)
    return value
