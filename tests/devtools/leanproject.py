"""A project whose base lacks features that were not chosen, as `_exclude` leaves them out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import quick_python
from processkit import BASE

EXCLUDED = {
    "console": ("console",),
    "streams": ("streams", "devtools/messages"),
    "leased_jobs": ("jobs",),
    "telemetry": ("telemetry",),
}
"""Folders of the base that belong to a feature."""

MAIN = """
from .workerbase.cli import make_cli

main = make_cli("lean.worker:WorkerSettings")

if __name__ == "__main__":
    main()
"""
WORKER = """
from .workerbase import BaseArqWorkerSettings

class WorkerSettings(BaseArqWorkerSettings):
    pass
"""
ENTRY_POINTS = """
[lean.commands]
base = lean.workerbase.testing.commands:base
chaos = lean.workerbase.devtools.commands:chaos
console = lean.workerbase.console.cli.console:console
dev = lean.workerbase.console.cli.dev:dev
find = lean.workerbase.console.cli.find:find
jobs = lean.workerbase.console.cli.jobs:jobs
schedule = lean.workerbase.console.cli.schedule:schedule
workers = lean.workerbase.console.cli.workers:workers
demo = lean.workerbase.devtools.commands:demo
groups = lean.workerbase.streams.commands:groups
publish = lean.workerbase.streams.commands:publish
status = lean.workerbase.console.cli.watch:status
"""


class LeanProject:
    """The project; `python -m lean` is its command line.

    Args:
        folder: where to write it.
        without: features that are left out.
    """

    def __init__(self, folder: Path, *without: str) -> None:
        self.folder = folder
        package = folder / "src" / "lean"
        self.base = package / "workerbase"
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(BASE / "workerbase", self.base, ignore=unwanted)
        for feature in without:
            for name in EXCLUDED[feature]:
                shutil.rmtree(self.base / name)
                # Git leaves a folder behind that holds ignored files.
                (self.base / name / "__pycache__").mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(MAIN)
        (package / "worker.py").write_text(WORKER)
        about = folder / "src" / "lean-0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lean\nVersion: 0\n")
        (about / "entry_points.txt").write_text(ENTRY_POINTS)

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return quick_python.run(
            [sys.executable, "-m", "lean", *arguments],
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), "COLUMNS": "80"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
