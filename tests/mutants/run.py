"""Change the base in one place at a time, and see that a test notices.

Tools that make mutants by themselves do not reach the Lua in `scripts.py`, so ours are written
down, in the TOML files beside this one: what is replaced, by what, and the tests that ought to
fail. A text that is no longer found exactly once in the base is an error, and so are tests that
fail without any change; a mutant that changes nothing is listed as ``equivalent``, with the reason.
``nox -s mutants`` runs all of it, ``nox -s mutants -- -k claim`` those with "claim" in their names.
"""

import argparse
import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = Path("template", "src", "{{package_name}}", "workerbase")
NEEDED = ("pyproject.toml", "tests", str(BASE))
"""What the tests of the base need of the repository."""
TEST_TIMEOUT_S = 60
"""A test that hangs so long has noticed."""
RUN_TIMEOUT_S = 300

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
        """Return the module that it changes.

        Raises:
            LookupError: its text is not in the base, or more than once.
        """
        found = {path: path.read_text().count(self.old) for path in base.rglob("*.py")}
        if sum(found.values()) != 1:
            modules = ", ".join(path.name for path, count in found.items() if count) or "nowhere"
            msg = f"{self.name}: found {sum(found.values())} times ({modules}): {self.old!r}"
            raise LookupError(msg)
        return next(path for path, count in found.items() if count)


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


def run_tests(folder: Path, tests: Iterable[str]) -> tuple[Outcome, str]:
    """Run tests in a copy; return what that says about the mutant in it, and what they print."""
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
        "-p", "mutants.quick", "-o", f"timeout={TEST_TIMEOUT_S}", *tests,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(folder / "tests")}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
        try:
            code = process.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it stops its servers then
            process.wait()
            code = None
        output.seek(0)
        said = output.read()
    if code is None or (code == 1 and "Timeout (>" in said):
        return "killed by time-out", said
    # 0: all passed, 1: some failed; all else means that the tests did not run.
    return {0: "survived", 1: "killed"}.get(code, "error"), said  # type: ignore[return-value]


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


def main() -> int:
    """Run the mutants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", dest="names", default="", help="only those with this in their names")
    parser.add_argument("--at-once", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--trust", action="store_true", help="do not run the tests unchanged first")
    options = parser.parse_args()
    chosen = [mutant for mutant in mutants() if options.names in mutant.name]
    for mutant in chosen:
        mutant.place(ROOT / BASE)
    wanted = [mutant for mutant in chosen if not mutant.equivalent]
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.at_once):
            folders.put(copy(Path(temporary, str(number))))

        def settle(mutant: Mutant | None) -> tuple[Outcome, str, float]:
            folder, began = folders.get(), time.monotonic()
            try:
                if mutant is not None:
                    return *run(mutant, folder), time.monotonic() - began
                tests = dict.fromkeys(test for mutant in wanted for test in mutant.tests)
                return *run_tests(folder, tests), time.monotonic() - began
            finally:
                folders.put(folder)

        if wanted and not options.trust:
            outcome, said, _ = settle(None)
            if outcome != "survived":
                print(said[-5000:], "\nthe tests fail without any mutant", sep="")
                return 2
        with ThreadPoolExecutor(options.at_once) as pool:
            settled = pool.map(settle, wanted)
            for mutant, (outcome, said, seconds) in zip(wanted, settled, strict=True):
                counts[outcome] = counts.get(outcome, 0) + 1
                print(f"{outcome:18} {seconds:5.1f} s  {mutant.name}", flush=True)
                if outcome == "error":
                    print(said[-3000:])
    counts["equivalent"] = len(chosen) - len(wanted)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return int(bool(counts.keys() & {"survived", "error"}) or not chosen)


if __name__ == "__main__":
    sys.exit(main())
