"""Text that messages and errors bring along, made fit for a log, a terminal and Redis.

It may have any length, and characters that a terminal obeys or that end a line of a log.
"""

import re
import textwrap
import traceback

MAX_ERROR, MAX_TRACEBACK = 1_000, 8_000
"""Maximum characters of the text of an error, and of its traceback."""
MAX_LOGGED = 10_000
"""Maximum characters of one text in the log."""

OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Characters that a terminal interprets, but for line breaks and tabs: in a class of a pattern."""
_OBEYED = re.compile(f"[{OBEYED}]")


def bounded(text: str, limit: int) -> str:
    """Return ``text`` with no more than ``limit`` characters; the end says what was cut."""
    if len(text) <= limit:
        return text
    mark = f"… ({len(text):,} characters)"
    return text[: limit - len(mark)] + mark


def printable(text: str, *, one_line: bool = False) -> str:
    """Escape what a terminal would interpret in a text that others wrote.

    That is escape sequences, changes of the writing direction and lone surrogates; with
    ``one_line`` line breaks and tabs become spaces.
    """
    line = re.sub(r"\s", " ", text) if one_line else text
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], line)


def writable(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def traceback_of(error: BaseException) -> str:
    """Return the end of the traceback, with bounded texts of errors."""
    try:
        parts = traceback.TracebackException.from_exception(error).format()
        text = "\n".join(bounded(part.rstrip("\n"), 2 * MAX_ERROR) for part in parts)
    except BaseException as exc:  # a failure must not fail to be reported
        return f"its traceback is not available ({type(exc).__name__})"
    text = writable(printable(text))
    return text if len(text) <= MAX_TRACEBACK else f"…{text[1 - MAX_TRACEBACK :]}"


def logged_traceback(error: BaseException) -> str:
    """Return the traceback indented: no line of a log begins with the text of an error."""
    return textwrap.indent(traceback_of(error), "  ", lambda _: True)
