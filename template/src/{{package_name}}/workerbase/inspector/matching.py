"""What a dead letter is called and what it contains: by this a filter selects it."""

import json
from typing import Any, cast

from ..broker import trace_context
from ..engine import failure_record
from ..engine.failure_record import DATA, ID
from ..errors import PayloadError
from ..types import EntryId, Payload


def ids_of(entry_id: EntryId, payload: Payload) -> frozenset[str]:
    """Return all ids under which logs, traces and contexts name a dead letter.

    These are the id of the dead letter, of the message or job, of each stream entry that the
    message has been, and of the sender's trace.
    """
    trace = payload.get(trace_context.FIELD, "").split("-")
    ids = (
        entry_id,
        payload.get(ID, ""),
        payload.get(failure_record.ORIGINAL_ID, ""),
        *payload.get(failure_record.ENTRY_IDS, "").split(),
        trace[1] if len(trace) > 1 else "",
    )
    return frozenset(filter(None, ids))


def meets(payload: Payload, path: str, text: str) -> bool:
    """Whether a field of the payload has this value; with ``!`` behind its name, another one.

    A payload without the field meets neither: a name that is misspelt selects nothing.
    """
    found = _values(payload, path.removesuffix("!"))
    if path.endswith("!"):
        return bool(found) and not any(_is(value, text) for value in found)
    return any(_is(value, text) for value in found)


def parse_condition(text: str) -> tuple[str, str]:
    """Return the field and the value of ``field=value`` or ``field!=value``, as `meets` takes them.

    Raises:
        PayloadError: it has neither form.
    """
    name, equals, value = text.partition("=")
    field = name.strip().removesuffix("!").strip()
    if not field or not equals:
        msg = f"{text!r} is not of the form field=value or field!=value, such as order_id=42"
        raise PayloadError(msg)
    return field + "!" * name.rstrip().endswith("!"), value.strip()


def _values(payload: Payload, path: str) -> list[object]:
    """Return what a payload has of this name.

    It is that of a field of the event, of a named argument of the job, or of another field of the
    message. A dot leads to a field or, by its position, to an element of a value:
    ``customer.email``, ``args.0``.
    """
    try:
        data: object = json.loads(payload.get(DATA, ""))
    except ValueError:
        data = None
    names = path.split(".")
    places = ((data, names), (data, ["kwargs", *names]), (payload, [path]))
    return [value for root, place in places for value in _values_at(root, place)]


def _values_at(root: object, path: list[str]) -> list[object]:
    found: Any = root
    for name in path:
        if isinstance(found, dict) and name in found:
            found = cast("Any", found[name])
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(cast("Any", found)):
            found = cast("Any", found[int(name)])
        else:
            return []
    return [found]


def _is(value: object, text: str) -> bool:
    return value == text if isinstance(value, str) else json.dumps(value) == _normalized(text)


def _normalized(text: str) -> str:
    """Return JSON in one form."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text
