"""Check that arq's suite tests our engine: with each of these faults in it the suite must fail.

``python tests/conformance/sabotage.py FOLDER`` takes the unpacked source of arq. There is one
change in each of claiming, running and settling. A suite that passes with one of them does not
reach that part of ours, because the adapter serves it by arq's own code for example.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "template" / "src" / "{{package_name}}"
CLOSING = "ignore:Call to deprecated close:DeprecationWarning"
"""arq's tests close clients in a way that redis 5.3 deprecates."""


@dataclass(frozen=True)
class Sabotage:
    """One change of the base."""

    part: str
    module: str
    old: str
    new: str

    def apply(self, package: Path) -> None:
        """Change the module in a copy of the base.

        Raises:
            LookupError: the text is not in the module exactly once.
        """
        path = package / "workerbase" / "jobs" / self.module
        text = path.read_text()
        if text.count(self.old) != 1:
            msg = f"{self.part}: found {text.count(self.old)} times in {self.module}: {self.old!r}"
            raise LookupError(msg)
        path.write_text(text.replace(self.old, self.new))


ALL = (
    Sabotage("claiming", "intake.py", "min(limit, MAX_FETCHED)", "MAX_FETCHED"),
    Sabotage("running", "executor.py", "if enqueued_attempt > attempt.number:", "if False:"),
    Sabotage("settling", "settlement.py", "settings.keep_result_forever\n", "False\n"),
)


def copy(folder: str) -> Path:
    """Copy the base into a folder of its own."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, Path(folder, "package"), ignore=ignored))


def fails(sabotage: Sabotage, arq: Path) -> bool:
    """Run arq's suite with the change in place; true if a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        package = copy(folder)
        sabotage.apply(package)
        options = ("-p", "arq_suite", "-W", CLOSING, "-x", "-q", "-p", "no:cacheprovider")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=arq,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(package), str(HERE)))},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"{sabotage.part}: the suite did not run\n{done.stdout}{done.stderr}")
    return done.returncode == pytest.ExitCode.TESTS_FAILED


def main() -> int:
    """Try all changes; return 1 if the suite passes with one of them."""
    code = 0
    for sabotage in ALL:
        noticed = fails(sabotage, Path(sys.argv[1]))
        print(f"{sabotage.part}: {'noticed' if noticed else 'NOT NOTICED'} by arq's suite")
        code |= not noticed
    return code


if __name__ == "__main__":
    sys.exit(main())
