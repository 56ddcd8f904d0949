# Owned by arq-worker-template: `copier update` overwrites edits; pass `shown` to `logs.configure`.
"""What must not leave the worker in logs, traces and reports: secrets and payloads."""

import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretBytes, SecretStr

HIDDEN = "[redacted]"

PAYLOAD_KEYS = frozenset(
    {"args", "arguments", "body", "data", "kwargs", "params", "payload", "result"}
)

_NAMES = (
    "api_?key|authorization|cookie|credential|dsn|passphrase|passwd|password|private_?key|pwd"
    "|secret|session_?id|token"
)
_SECRET_KEY = re.compile(_NAMES)
# It begins with the name itself and is bounded: a long text takes no longer than it is long.
_ASSIGNMENT = re.compile(
    rf"""((?:{_NAMES.replace("_?", "[-_]?")})[\w-]{{0,40}}\\?["']?\s?[=:]\s?)"""
    r"""(?:(?:Bearer|Basic|Token|ApiKey)\s)?"""
    r"""(?:b?\\?"(?:[^"\\]|\\.)*"?|b?'(?:[^'\\]|\\.)*'?|[^\s"',;&)\]}]+)""",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_BEARER = re.compile(r"\b(Bearer|Basic)\s[\w.~+/=-]{8,}", re.IGNORECASE)

_MOST_NESTED = 8
_OPAQUE = (bytes, bytearray, memoryview, SecretStr, SecretBytes)


def text(value: str) -> str:
    """Hide logins in URLs, what is assigned to a secret's name, and bearer tokens."""
    if "://" in value:
        value = _LOGIN.sub(f"{HIDDEN}@", value)
    if "=" in value or ":" in value:
        value = _ASSIGNMENT.sub(rf"\1{HIDDEN}", value)
    return _BEARER.sub(rf"\1 {HIDDEN}", value)


def argument(value: object) -> object:
    """Return an argument of a log message: of an event no more than its class."""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}({HIDDEN})"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _value(cast("object", value), (), 0)
    return value


def fields(values: Mapping[str, Any], shown: Collection[str] = ()) -> dict[str, Any]:
    """Hide what belongs to the name of a secret or of a payload, however deep it is nested.

    Args:
        values: names and what they hold.
        shown: names that are harmless here, in lower case.
    """
    return {name: _field(name, value, shown, 0) for name, value in values.items()}


def _field(name: object, value: object, shown: Collection[str], depth: int) -> object:
    lower = str(name).lower()
    secret = lower in PAYLOAD_KEYS or _SECRET_KEY.search(lower)
    if secret and lower not in shown and value is not None and not isinstance(value, bool):
        return HIDDEN
    return _value(value, shown, depth)


def _value(value: object, shown: Collection[str], depth: int) -> object:
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, int | float):
        return value
    if depth == _MOST_NESTED or isinstance(value, _OPAQUE):
        return HIDDEN
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(name): _field(name, item, shown, depth + 1) for name, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(item, shown, depth + 1) for item in cast("Collection[object]", value)]
    return argument(value) if isinstance(value, BaseModel) else text(repr(value))
