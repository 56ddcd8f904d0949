"""Whether a dashboard is one, by the models that Grafana generates from its own schemas.

The models take what they know and drop the rest in silence, and check no types: so what comes out
is compared with what went in, and each value with the type of its field.
"""

import json
from collections.abc import Iterator
from typing import Any, get_type_hints

from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from pydantic import ConfigDict, TypeAdapter, ValidationError

register_default_plugins()


def problems(dashboard: dict[str, Any]) -> list[str]:
    """Return what in a dashboard differs from Grafana's schemas."""
    try:
        read = Dashboard.from_json(dashboard)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        return [f"it cannot be read: {exc}"]
    written = json.loads(JSONEncoder().encode(read))
    return [*_lost(dashboard, written, ""), *_unfit(read, "")]


def _lost(given: Any, kept: Any, at: str) -> Iterator[str]:
    """Yield what of ``given`` is not in ``kept``."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name in given:
            if name in kept:
                yield from _lost(given[name], kept[name], f"{at}.{name}")
            else:
                yield f"{at}.{name} is unknown"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{at}.{number}")
    elif given != kept:
        yield f"{at} is {given!r}, and is taken for {kept!r}"


def _unfit(value: Any, at: str) -> Iterator[str]:
    """Yield values that are not of their field's type, or missing where the schema needs them."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unfit(item, f"{at}.{number}")
    if isinstance(value, runtime.UnknownDataquery):
        yield f"{at} is a query to a data source that is unknown"
    elif hasattr(value, "to_json"):
        yield from _unfit_panel(value, at) if isinstance(value, Panel) else ()
        for name, hint in get_type_hints(type(value)).items():
            found = getattr(value, name)
            if found == "" and hint is str:
                yield f"{at}.{name} is missing"
            elif not _is(found, hint):
                yield f"{at}.{name} is {found!r}, and not {hint}"
            yield from _unfit(found, f"{at}.{name}")


def _unfit_panel(panel: Panel, at: str) -> Iterator[str]:
    if runtime.panelcfg_config(panel.type_val) is None:
        yield f"{at} is a panel of the unknown type {panel.type_val!r}"
    if not panel.targets:
        yield f"{at} is a panel without a query"


def _is(value: object, hint: Any) -> bool:
    """Whether a value is of a type; texts may stand for the members of an enumeration."""
    adapter = TypeAdapter[Any](hint, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        if isinstance(value, bool | int | float | str):
            adapter.validate_json(json.dumps(value), strict=True)
        else:
            adapter.validate_python(value)
    except ValidationError:
        return False
    return True
