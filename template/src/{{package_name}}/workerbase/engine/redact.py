"""Hides secrets and payloads in logs, traces, reports, and in dead letters that are shown."""

import copy
import json
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretBytes, SecretStr

from ..engine.text import MAX_LOGGED, bounded

HIDDEN = "[redacted]"

PAYLOAD_KEYS = frozenset(
    {"args", "arguments", "body", "data", "kwargs", "params", "payload", "result"}
)

_NAMES = (
    r"access_?key|api_?key|authorization|cookie|credential|dsn|passphrase|passwd|password"
    r"|private_?key|pwd|secret|session_?id|token|(?<![a-z0-9])(?:cvc|cvv2?|otp|pin)(?![a-z0-9])"
).replace("_?", "[-_ ]?")
"""Names of secrets; the short ones count only as a whole word, since `otp` is in `hotplug`."""
_SECRET_KEY = re.compile(_NAMES)
# It starts with the name and is bounded, so that the time grows linearly with the text.
_ASSIGNMENT = re.compile(
    rf"""((?:{_NAMES})[\w-]{{0,40}}\\?["']?\s?[=:]\s?)"""
    r"""(?:(?:Bearer|Basic|Token|ApiKey)\s)?"""
    r"""(?:b?\\?"(?:[^"\\]|\\.)*"?|b?'(?:[^'\\]|\\.)*'?|[^\s"',;&)\]}]+)""",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_BEARER = re.compile(r"\b(Bearer|Basic)\s[\w.~+/=-]{8,}", re.IGNORECASE)

_MAX_DEPTH = 8
_OPAQUE = (bytes, bytearray, memoryview, SecretStr, SecretBytes)


def text(value: str) -> str:
    """Hide logins in URLs, values assigned to the name of a secret, and bearer tokens."""
    if "://" in value:
        value = _LOGIN.sub(f"{HIDDEN}@", value)
    if "=" in value or ":" in value:
        value = _ASSIGNMENT.sub(rf"\1{HIDDEN}", value)
    return _BEARER.sub(rf"\1 {HIDDEN}", value)


def argument(value: object) -> object:
    """Return an argument of a log message; of an event only its class."""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}({HIDDEN})"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _value(cast("object", value), (), 0)
    return value


def record(value: logging.LogRecord) -> logging.LogRecord:
    """Return a log record without payloads among the arguments of its message."""
    value = copy.copy(value)
    if isinstance(value.msg, BaseModel):
        value.msg = argument(value.msg)
    if isinstance(value.args, Mapping):
        value.args = {name: argument(one) for name, one in value.args.items()}
    elif value.args:
        value.args = tuple(map(argument, value.args))
    return value


def payload(value: str) -> str:
    """Hide secrets in the JSON of a payload, of which the rest is shown."""
    try:
        data: object = json.loads(value)
    except (ValueError, RecursionError):
        return text(value)
    hidden = _value(data, PAYLOAD_KEYS, 0)
    return value if hidden == data else json.dumps(hidden, ensure_ascii=False)


def fields(values: Mapping[str, Any], shown: Collection[str] = ()) -> dict[str, Any]:
    """Hide values under the name of a secret or of a payload, at any depth.

    Args:
        values: the fields by name.
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
        return text(bounded(value, MAX_LOGGED))
    if value is None or isinstance(value, int | float):
        return value
    if depth == _MAX_DEPTH or isinstance(value, _OPAQUE):
        return HIDDEN
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(name): _field(name, item, shown, depth + 1) for name, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(item, shown, depth + 1) for item in cast("Collection[object]", value)]
    return (
        argument(value) if isinstance(value, BaseModel) else text(bounded(repr(value), MAX_LOGGED))
    )
