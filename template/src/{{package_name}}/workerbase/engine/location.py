"""Where in the project's code an error was raised, by which errors are grouped.

A location is ``module:function`` and has no line number, so that it stays the same while the code
around it changes.
"""

import os
import re
import traceback
from pathlib import Path
from types import FrameType

_BASE = __name__.rpartition(".engine.")[0]
_PROJECT = _BASE.rpartition(".")[0]
"""The package that contains the base; empty where the base stands alone."""
_STANDARD_LIBRARY = f"{Path(os.__file__).parent}{os.sep}"
_INSTALLED = re.compile(r"[/\\](?:lib[/\\]python3\.\d+|site-packages|dist-packages)[/\\]")
_FRAME = re.compile(r'^  File "(.+\.py)", line \d+, in (.+)$', re.MULTILINE)
_BEGINNING = "Traceback (most recent call last):\n"


def of_error(error: BaseException) -> str:
    """Return the innermost frame of the project's code; empty if none took part.

    Code of the project is the package that contains the base, and whatever is neither installed
    nor part of Python.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if _is_ours(frame)]
    if not frames:
        return ""
    name = frames[-1].f_globals["__name__"]
    return f"{name}:{frames[-1].f_code.co_qualname}"


def in_traceback(text: str) -> str:
    """Return the location that a formatted traceback shows; empty if there is none.

    A dead letter of a release before 1.0 has nothing else. The module is known where it belongs
    to the project's package; elsewhere the path of the file takes its place.
    """
    frames = [
        (path, function)
        for path, function in _FRAME.findall(text.rpartition(_BEGINNING)[2])
        if _is_code_of_project(path, _module_at(path))
    ]
    if not frames:
        return ""
    path, function = frames[-1]
    return f"{_module_at(path) or path}:{function}"


def _is_ours(frame: FrameType) -> bool:
    # Compiled modules have no usable path in their code, but all that were imported have a file.
    path, name = frame.f_globals.get("__file__"), frame.f_globals.get("__name__")
    return isinstance(path, str) and isinstance(name, str) and _is_code_of_project(path, name)


def _is_code_of_project(path: str, module: str) -> bool:
    if _is_in(module, _BASE):
        return False
    if _PROJECT and _is_in(module, _PROJECT):
        return True  # an image installs the project, too
    return not path.startswith(_STANDARD_LIBRARY) and _INSTALLED.search(path) is None


def _is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _module_at(path: str) -> str:
    """Return the module of the project or the base that a file is; empty if it is neither."""
    root = (_PROJECT or _BASE).partition(".")[0]
    _, found, rest = path.replace("\\", "/").rpartition(f"/{root}/")
    name = f"{root}/{rest}".removesuffix(".py").removesuffix("/__init__")
    return name.replace("/", ".") if found else ""
