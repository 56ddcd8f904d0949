"""copier, which compiles each text once: names of folders would be compiled thousands of times.

``python tests/quick_copier.py copy …`` is the command. Only the time differs, by more than half.
"""

import runpy
from pathlib import Path
from typing import Any

from jinja2 import Environment

COMMAND = Path(__file__)
_compile: Any = Environment.compile
_compiled: dict[tuple[object, ...], Any] = {}


def _compile_once(env: Environment, source: Any, *arguments: Any, **options: Any) -> Any:
    # Environments of the same settings share their lexer.
    key = (type(env), env.lexer, source, arguments, *options.items())
    if key not in _compiled:
        _compiled[key] = _compile(env, source, *arguments, **options)
    return _compiled[key]


def install() -> None:
    """Do so in this process."""
    Environment.compile = _compile_once  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    install()
    runpy.run_module("copier", run_name="__main__", alter_sys=True)
