"""What the pages show of payloads and errors: as everywhere, without the values of secrets."""

import json

from ..broker import codec
from ..engine import redact

text = redact.text


def data(value: object) -> object:
    """Hide the values of secrets in plain data, at any depth."""
    return redact.fields({"value": value}, redact.PAYLOAD_KEYS)["value"]


def payload(raw: str) -> str:
    """Return JSON to be read by people, without the values of secrets; other text as it is."""
    shown = redact.payload(raw)
    try:
        return json.dumps(json.loads(shown), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return shown


def plain(value: object) -> str:
    """Return any data as JSON to be read by people, without the values of secrets."""
    return payload(codec.to_display_json(value))
