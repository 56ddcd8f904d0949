"""Runs the shell steps of GitHub's workflows here, in the place of GitHub."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{ (.+?) \}\}")


@dataclass(frozen=True)
class Ran:
    """A step that ran."""

    returncode: int
    said: str
    outputs: dict[str, str]


@dataclass
class Workflow:
    """A workflow, the folder that it runs in, and what its expressions are worth."""

    file: Path
    folder: Path
    values: dict[str, str]
    """By expression; one that is not listed fails the test that needs it."""
    tools: Path
    """A folder with stand-ins for programs that need a network; outputs are written there, too."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What GitHub sets for each step."""

    @property
    def jobs(self) -> dict[str, Any]:
        return yaml.safe_load(self.file.read_text("utf-8"))["jobs"]

    def scripts(self) -> Iterator[tuple[str, str]]:
        """Yield job and script of each shell step."""
        for name, job in self.jobs.items():
            yield from ((name, step["run"]) for step in job["steps"] if "run" in step)

    def run(self, job: str, step: str) -> Ran:
        """Run a step by its name, as GitHub does with `shell: bash`."""
        whole = yaml.safe_load(self.file.read_text("utf-8"))
        (found,) = (one for one in whole["jobs"][job]["steps"] if one.get("name") == step)
        output = self.tools / "github-output"
        output.write_text("")
        declared = whole.get("env", {}) | whole["jobs"][job].get("env", {}) | found.get("env", {})
        env = {
            "PATH": f"{self.tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": os.environ.get("HOME", "/"),
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(self.folder),
            **self.environment,
            **{name: self._evaluate(str(value)) for name, value in declared.items()},
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"]],
            cwd=self.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = (line.split("=", 1) for line in output.read_text().splitlines())
        return Ran(done.returncode, done.stdout + done.stderr, dict(lines))

    def _evaluate(self, text: str) -> str:
        return _EXPRESSION.sub(lambda found: self.values[found[1]], text)


def write_tool(folder: Path, name: str, text: str) -> None:
    """Write a stand-in for a program."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
