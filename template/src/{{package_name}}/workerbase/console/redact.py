"""What the pages show of payloads and errors: the one place that decides it."""

import json
import re
from collections.abc import Mapping
from typing import cast

from ..broker import codec

HIDDEN = "[redacted]"

_NAMES = (
    r"access_?key|api_?key|authorization|cookie|credential|dsn|passphrase|passwd|password"
    r"|private_?key|pwd|secret|session_?id|token|(?<![a-z0-9])(?:cvc|cvv2?|otp|pin)(?![a-z0-9])"
).replace("_?", "[-_ ]?")
_SECRET = re.compile(_NAMES, re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_ASSIGNMENT = re.compile(
    rf"""((?:{_NAMES})[\w-]{{0,40}}\\?["']?\s?[=:]\s?)"""
    r"""(?:(?:Bearer|Basic|Token|ApiKey)\s)?"""
    r"""(?:b?\\?"(?:[^"\\]|\\.)*"?|b?'(?:[^'\\]|\\.)*'?|[^\s"',;&)\]}]+)""",
    re.IGNORECASE,
)


def text(value: str) -> str:
    """Hide logins in URLs and values assigned to the name of a secret."""
    return _ASSIGNMENT.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", value))


def data(value: object, name: str = "") -> object:
    """Hide the values of secrets in plain data, at any depth."""
    if name and _SECRET.search(name) and value is not None and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): data(item, str(key)) for key, item in items}
    if isinstance(value, list | tuple):
        return [data(item) for item in cast("list[object]", value)]
    return text(value) if isinstance(value, str) else value


def payload(raw: str) -> str:
    """Return JSON to be read by people, without the values of secrets; other text as it is."""
    try:
        found: object = json.loads(raw)
    except (ValueError, RecursionError):
        return text(raw)
    return json.dumps(data(found), indent=2, ensure_ascii=False)


def plain(value: object) -> str:
    """Return any data as JSON to be read by people, without the values of secrets."""
    return payload(codec.to_display_json(value))
