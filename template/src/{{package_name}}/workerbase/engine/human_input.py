"""Reads what people type: durations, times, and names that may be misspelt."""

import difflib
import re
from collections.abc import Iterable
from datetime import datetime, tzinfo

from ..errors import MAX_DURATION_S

MAX_LISTED = 10
"""Maximum number of names that an error lists."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of each unit, the shortest first."""


def near(name: str, known: Iterable[str]) -> str:
    """Suggest what ``name`` was probably meant to be, or list what there is."""
    names = sorted(known)
    found = difflib.get_close_matches(name, names, 1)
    if found:
        return f"did you mean {found[0]}?"
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return f"there are: {', '.join(names[:MAX_LISTED])}{more}" if names else "there are none"


def duration(text: str) -> float:
    """Return the seconds of ``30``, ``30s``, ``5m``, ``2h`` or ``1d``.

    Raises:
        ValueError: says what would be right.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        msg = f"{text!r} is not a duration; write 30s, 5m, 2h or 1d"
        raise ValueError(msg)
    seconds = float(found[1]) * UNITS[found[2] or "s"]
    if seconds > MAX_DURATION_S:
        msg = f"{text!r} is longer than {MAX_DURATION_S:g} s"
        raise ValueError(msg)
    return seconds


def moment(text: str, zone: tzinfo | None = None) -> float:
    """Return the Unix time of a date, or of a date and time, in ISO 8601.

    Args:
        text: may have an offset of its own.
        zone: of a text without an offset; that of this machine by default.

    Raises:
        ValueError: says what would be right.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        msg = f"{text!r} is not a time; write 2026-11-25, 2026-11-25T10:30 or …T10:30+01:00"
        raise ValueError(msg) from None
