"""What a dead letter is called and what it contains: by this a filter selects it."""

import json
from typing import Any, cast

from ..broker import trace_context
from ..engine import failure_record
from ..engine.failure_record import DATA, ID
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
    """Whether a field of the payload has this value; with ``!`` behind its name, whether not."""
    if path.endswith("!"):
        return not has_value(payload, path[:-1], text)
    return has_value(payload, path, text)


def has_value(payload: Payload, path: str, text: str) -> bool:
    """Whether a field of the payload has this value.

    Args:
        payload: the fields of a dead letter.
        path: name of a field of the event, of a named argument of the job, or of another field
            of the message. A dot leads to a field or, by its position, to an element of a value:
            ``customer.email``, ``args.0``.
        text: the value, as text or as JSON.
    """
    try:
        data: object = json.loads(payload.get(DATA, ""))
    except ValueError:
        data = None
    names = path.split(".")
    places = ((data, names), (data, ["kwargs", *names]), (payload, [path]))
    return any(_is_value(root, place, text) for root, place in places)


def _is_value(root: object, path: list[str], text: str) -> bool:
    found: Any = root
    for name in path:
        if isinstance(found, dict) and name in found:
            found = cast("Any", found[name])
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(cast("Any", found)):
            found = cast("Any", found[int(name)])
        else:
            return False
    return found == text if isinstance(found, str) else json.dumps(found) == _normalized(text)


def _normalized(text: str) -> str:
    """Return JSON in one form."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text
