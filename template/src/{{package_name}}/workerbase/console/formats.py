"""How the templates write numbers, times and ages; and the templates themselves."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import redact

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"

VERSION = hashlib.sha1(
    b"".join(path.read_bytes() for path in sorted(STATIC.iterdir())), usedforsecurity=False
).hexdigest()[:8]
"""Of the static files: browsers keep them until it changes."""

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_BYTES = ("B", "kB", "MB", "GB", "TB")


def number(value: float | None, digits: int = 0) -> str:
    """Write a number with thousands separated by a narrow space; a dash where there is none."""
    if value is None:
        return "–"  # noqa: RUF001 - the sign for no value
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def rate(value: float | None) -> str:
    """Write a number a second or a minute: small ones with a decimal place."""
    return number(value, 1 if value is not None and 0 < value < 10 else 0)  # noqa: PLR2004


def age(seconds: float | None) -> str:
    """Write a time span in its two largest units, such as ``2h 05m``."""
    if seconds is None:
        return "–"  # noqa: RUF001
    seconds = max(0.0, seconds)
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f}s"
    rest = round(seconds)
    for place, (unit, size) in enumerate(_UNITS[:-1]):
        if rest >= size:
            smaller, small = _UNITS[place + 1]
            return f"{rest // size}{unit} {rest % size // small:02}{smaller}"
    return f"{rest}s"


def memory(value: float) -> str:
    """Write a number of bytes."""
    *units, largest = _BYTES
    for unit in units:
        if value < 1000:  # noqa: PLR2004
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {largest}"


def iso(at: float) -> str:
    """Write a time for machines."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def utc(at: float) -> str:
    """Write a time for people."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def unix(text: str) -> float | None:
    """Return the Unix time of a timestamp as failures record it; None if there is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def pretty(value: object) -> str:
    """Write plain data as JSON to be read by people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS: dict[str, Callable[..., object]] = {
    "age": age,
    "iso": iso,
    "memory": memory,
    "number": number,
    "pretty": pretty,
    "rate": rate,
    "redacted": redact.text,
    "unix": unix,
    "utc": utc,
}
cast("dict[str, Callable[..., object]]", TEMPLATES.filters).update(_FILTERS)
