"""Change the base in one place at a time, and see that a test notices.

Tools that generate mutants do not reach the Lua scripts, so ours are written down, in the TOML
files beside this one: what is replaced, by what, and the tests that must fail. A text that is not
found exactly once in the base is an error, and so are tests that fail without any change; a mutant
that changes nothing is listed as ``equivalent``, with the reason.
``nox -s mutants`` runs all of it, ``nox -s mutants -- -k claim`` those with "claim" in their names.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Literal

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = Path("template", "src", "{{package_name}}", "workerbase")
NEEDED = ("pyproject.toml", "tests", str(BASE))
"""What the tests of the base need of the repository."""
PRELOADED = ("arq.worker", "click.testing", "copier", "hypothesis.stateful", "pydantic_settings")
"""Imported once, for all tests together; most of a short test's time goes there."""
TEST_TIMEOUT_S = 60
"""A test that hangs for this long, in seconds, has noticed the mutant."""
RUN_TIMEOUT_S = 600
RAN = 100
"""Added to pytest's exit code: Python's own for an error is pytest's for a test that failed."""

Outcome = Literal["killed", "killed by time-out", "survived", "error"]


@dataclass(frozen=True)
class Mutant:
    """One change of the base."""

    name: str
    old: str
    new: str
    tests: Sequence[str]
    equivalent: str = ""
    """Why it changes nothing that anybody could notice; it is not run then."""

    def place(self, base: Path) -> Path:
        """Return the module or script that it changes.

        Raises:
            LookupError: its text is not in the base, or more than once.
        """
        found = {path: text.count(self.old) for path, text in _texts(base).items()}
        if sum(found.values()) != 1:
            modules = ", ".join(path.name for path, count in found.items() if count) or "nowhere"
            msg = f"{self.name}: found {sum(found.values())} times ({modules}): {self.old!r}"
            raise LookupError(msg)
        return next(path for path, count in found.items() if count)


@functools.cache
def _texts(base: Path) -> dict[Path, str]:
    files = (path for path in base.rglob("*") if path.suffix in (".py", ".lua"))
    return {path: path.read_text() for path in files}


def mutants() -> Iterator[Mutant]:
    """Read the lists; a mutant without tests of its own takes those of its group."""
    for path in sorted(HERE.glob("*.toml")):
        for group in tomllib.loads(path.read_text())["group"]:
            for entry in group["mutant"]:
                tests = () if "equivalent" in entry else group.get("tests", ())
                yield Mutant(**{"tests": tests} | entry)


def copy(target: Path) -> Path:
    """Copy what the tests need, so that nothing here is ever changed."""
    for name in NEEDED:
        source = ROOT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[Outcome, str]:
    """Run tests in a copy; return what that says about the mutant in it, and what they print."""
    with tempfile.TemporaryFile("w+") as output:
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=_test, args=(folder, tests, output.fileno()))
        process.start()
        process.join(RUN_TIMEOUT_S)
        hung = process.is_alive()
        if hung and process.pid:
            os.kill(process.pid, signal.SIGINT)  # it stops its servers then
            process.join()
        output.seek(0)
        said = output.read()
    code = (process.exitcode or 0) - RAN
    if hung or (code == pytest.ExitCode.TESTS_FAILED and "Timeout (>" in said):
        return "killed by time-out", said
    outcomes: dict[int, Outcome] = {
        pytest.ExitCode.OK: "survived",
        pytest.ExitCode.TESTS_FAILED: "killed",
    }
    return outcomes.get(code, "error"), said


def _test(folder: Path, tests: Sequence[str], output: int) -> None:
    os.chdir(folder)
    os.dup2(output, 1)
    os.dup2(output, 2)
    places = str(folder / "tests")
    os.environ["PYTHONPATH"] = sys.path[0] = places
    options = (
        "-x", "-q", "-p", "no:cacheprovider", "-p", "mutants.quick",
        "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
        # Of what pytest leaves open where it stops early.
        "-W", "ignore::pytest.PytestUnraisableExceptionWarning",
        "-o", f"timeout={TEST_TIMEOUT_S}",
    )  # fmt: skip
    sys.exit(RAN + pytest.main([*options, *tests]))


def run(mutant: Mutant, folder: Path) -> tuple[Outcome, str]:
    """Run the tests of a mutant with it in place."""
    module = mutant.place(folder / BASE)
    original = module.read_text()
    # Python tells modules by second and size, which two versions may share.
    compiled = Path(importlib.util.cache_from_source(str(module)))
    try:
        module.write_text(original.replace(mutant.old, mutant.new))
        compiled.unlink(missing_ok=True)
        return run_tests(folder, mutant.tests)
    finally:
        module.write_text(original)
        compiled.unlink(missing_ok=True)


class Bench:
    """One of the processes that run mutants, with a copy of its own."""

    folder: Path

    @classmethod
    def take(cls, folders: "SimpleQueue[Path]") -> None:
        cls.folder = copy(folders.get())

    @classmethod
    def settle(cls, mutant: Mutant) -> tuple[Outcome, str, float]:
        """Run a mutant; one without a name is the base as it is."""
        began = time.monotonic()
        outcome, said = (run if mutant.name else _unchanged)(mutant, cls.folder)
        return outcome, said, time.monotonic() - began


def _unchanged(mutant: Mutant, folder: Path) -> tuple[Outcome, str]:
    return run_tests(folder, mutant.tests)


def main() -> int:
    """Run the mutants that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-k", dest="names", default="", help="only those with this in their names")
    parser.add_argument("--at-once", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--trust", action="store_true", help="do not run the tests unchanged first")
    options = parser.parse_args()
    chosen = [mutant for mutant in mutants() if options.names in mutant.name]
    for mutant in chosen:
        mutant.place(ROOT / BASE)
    wanted = [mutant for mutant in chosen if not mutant.equivalent]
    for module in PRELOADED:
        importlib.import_module(module)

    counts: dict[str, int] = {}
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as temporary:
        folders: SimpleQueue[Path] = fork.SimpleQueue()
        for number in range(options.at_once):
            folders.put(Path(temporary, str(number)))
        with ProcessPoolExecutor(options.at_once, fork, Bench.take, (folders,)) as pool:
            if wanted and not options.trust:
                tests = list(dict.fromkeys(test for mutant in wanted for test in mutant.tests))
                outcome, said, _ = pool.submit(Bench.settle, Mutant("", "", "", tests)).result()
                if outcome != "survived":
                    print(said[-5000:], "\nthe tests fail without any mutant", sep="")
                    return 2
            for mutant, settled in zip(wanted, pool.map(Bench.settle, wanted), strict=True):
                outcome, said, seconds = settled
                counts[outcome] = counts.get(outcome, 0) + 1
                print(f"{outcome:18} {seconds:5.1f} s  {mutant.name}", flush=True)
                if outcome == "error":
                    print(said[-3000:])
    counts["equivalent"] = len(chosen) - len(wanted)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return int(bool(counts.keys() & {"survived", "error"}) or not chosen)


if __name__ == "__main__":
    sys.exit(main())
