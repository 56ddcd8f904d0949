"""The events and tasks that the worker knows, with their fields and docstrings."""

import inspect
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...engine.sources import WorkSource
from ...process.requeue import REQUEUE_TASK
from ..site import site_of


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of an event, or a parameter of a task."""

    name: str
    kind: str
    default: str
    """Empty where it is required."""
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """An event or a task."""

    name: str
    source: str
    kind: str
    """``event``, ``task`` or ``cron``."""
    where: str
    """The function that handles it."""
    text: str
    parameters: tuple[Parameter, ...]


def describe(source: WorkSource) -> list[Known]:
    """Describe what a source carries."""
    found: list[Known] = []
    for name, function in source.functions.items():
        if name == REQUEUE_TASK:
            continue
        plain = inspect.unwrap(getattr(function, "task", function))
        model = source.models.get(name)
        docs = [inspect.getdoc(plain) or ""]
        if model is not None:
            docs.insert(0, (model.__doc__ or "") and inspect.cleandoc(model.__doc__ or ""))
        found.append(
            Known(
                name=name,
                source=source.name,
                kind="event" if model else "cron" if name.startswith("cron:") else "task",
                where=f"{plain.__module__}.{plain.__qualname__}",
                text="\n\n".join(filter(None, docs)),
                parameters=tuple(_fields(model) if model else _parameters(plain)),
            )
        )
    return found


def _fields(model: type[BaseModel]) -> list[Parameter]:
    return [
        Parameter(name, _type(field.annotation), _default(field), field.description or "")
        for name, field in model.model_fields.items()
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    return f"{field.default_factory}" if field.default_factory else repr(field.default)


def _parameters(function: Any) -> list[Parameter]:
    _, *found = inspect.signature(function).parameters.values()
    empty = inspect.Parameter.empty
    return [
        Parameter(
            parameter.name,
            "" if parameter.annotation is empty else _type(parameter.annotation),
            "" if parameter.default is empty else repr(parameter.default),
            "",
        )
        for parameter in found
    ]


def _type(annotation: object) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


async def catalogue(request: Request) -> Response:
    """List all of it."""
    site = site_of(request)
    known = [one for source in site.settings.sources() for one in describe(source)]
    return await site.page(request, "catalogue.html", known=known)


ROUTES = (Route("/catalogue", catalogue),)
