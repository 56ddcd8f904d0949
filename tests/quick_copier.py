"""copier, with less work for the same result: ``python tests/quick_copier.py copy …``.

It compiles each text once: names of folders would be compiled thousands of times. It does not
render names in which nothing is to be rendered. And it does not ask git, file by file, whether the
index has to be told of modes, which is so on Windows only.
"""

import importlib
import os
import runpy
from pathlib import Path
from typing import Any

from jinja2 import Environment

COMMAND = Path(__file__)


def _find_worker() -> Any:
    try:
        return importlib.import_module("copier._main").Worker
    except ImportError:  # before copier 9.7
        return importlib.import_module("copier.main").Worker


_compile: Any = Environment.compile
worker: Any = _find_worker()
_render = worker._render_string
_compiled: dict[tuple[object, ...], Any] = {}


def _compile_once(env: Environment, source: Any, *arguments: Any, **options: Any) -> Any:
    # Environments of the same settings share their lexer. Of the arguments, the name of the file
    # is another one in each clone of the template, and is shown in tracebacks only.
    key = (type(env), env.lexer, source, *arguments[:1], *arguments[2:], *options.items())
    if key not in _compiled:
        _compiled[key] = _compile(env, source, *arguments, **options)
    return _compiled[key]


def _render_name(worker: Any, name: str, extra_context: Any = None) -> Any:
    return _render(worker, name, extra_context) if "{" in name or "\n" in name else name


def install() -> None:
    """Do so in this process."""
    Environment.compile = _compile_once  # type: ignore[method-assign, assignment]
    worker._render_string = _render_name
    if os.name == "posix" and hasattr(worker, "_sync_git_index_executable_bit"):
        worker._sync_git_index_executable_bit = lambda *_: None


if __name__ == "__main__":
    install()
    runpy.run_module("copier", run_name="__main__", alter_sys=True)
