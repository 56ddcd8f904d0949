"""pytest in a process of its own that has imported its libraries already."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from rendering_support import ROOT
from rendering_support import environment as stranger

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["pytest", "arq.worker", "pydantic_settings"])


OURS = (str(ROOT / "template"), str(ROOT / "tests"))


class Done(NamedTuple):
    """The exit code, and all that was printed."""

    returncode: int
    stdout: str


def run(folder: Path, *arguments: str, **environment: str) -> Done:
    """Run pytest in ``folder``; what it imports there stays in its process."""
    with tempfile.NamedTemporaryFile() as output:
        process = _FORKING.Process(target=_main, args=(folder, arguments, environment, output.name))
        process.start()
        process.join()
        return Done(process.exitcode or 0, Path(output.name).read_text("utf-8"))


def _main(
    folder: Path, arguments: tuple[str, ...], environment: dict[str, str], output: str
) -> None:
    with open(output, "wb") as file:  # noqa: PTH123 - its descriptor is wanted
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(folder)
    for name in os.environ.keys() - stranger().keys():
        del os.environ[name]
    os.environ.update(environment)
    others = [path for path in sys.path if not path.startswith(OURS)]
    sys.path[:] = [str(folder / "src"), *others]
    sys.exit(pytest.main(list(arguments)))
