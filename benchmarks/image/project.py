"""What is built: a project rendered from the template, or somebody else's folder."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UV = (sys.executable, "-m", "uv")
DEPENDENCY = "peppercorn"
"""A small package that needs no other: the dependency that is added."""


@dataclass(frozen=True)
class Project:
    """A folder to build an image from."""

    name: str
    folder: Path
    dockerfile: str = "Dockerfile"

    @classmethod
    def parse(cls, text: str) -> "Project":
        """Read ``name=folder[:dockerfile]``."""
        name, _, where = text.partition("=")
        folder, _, dockerfile = where.partition(":")
        return cls(name, Path(folder).resolve(), dockerfile or "Dockerfile")

    def copy(self, target: Path) -> "Project":
        """Copy it, to be changed."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target, symlinks=True)
        return Project(self.name, target, self.dockerfile)

    def change_code(self) -> None:
        """Change a line of its code: of the largest module beside its tests and workerbase."""
        others = re.compile(r"/(tests?|docs|workerbase|\.[^/]*)/")
        modules = [
            path
            for path in sorted(self.folder.rglob("*.py"))
            if not others.search(f"/{path.relative_to(self.folder).as_posix()}")
            and path.parent != self.folder
        ]
        largest = max(modules, key=lambda path: path.stat().st_size)
        largest.write_text(largest.read_text() + "\nCHANGED = True\n")

    def change_dependencies(self) -> None:
        """Add a dependency, and lock it where there is a lock file."""
        file = self.folder / "pyproject.toml"
        text = file.read_text()
        changed = re.sub(r"(?m)^dependencies *= *\[", f'dependencies = [\n  "{DEPENDENCY}",', text)
        if changed == text:
            message = f"{self.name}: no dependencies in {file}"
            raise ValueError(message)
        file.write_text(changed)
        if (self.folder / "uv.lock").exists():
            lock(self.folder)


def lock(folder: Path) -> None:
    """Write or renew the lock file, with a Python that suits the project, not with ours."""
    own = {k: v for k, v in os.environ.items() if k not in ("UV_PYTHON", "VIRTUAL_ENV")}
    subprocess.run([*UV, "lock", "--quiet"], cwd=folder, env=own, check=True)


def locked(project: Project, name: str) -> str:
    """Return the version of a package in the lock file of a project."""
    packages = tomllib.loads((project.folder / "uv.lock").read_text())["package"]
    return next(package["version"] for package in packages if package["name"] == name)


def render(name: str, folder: Path, *answers: str) -> Project:
    """Render HEAD of this template and lock the project's dependencies, as its README says."""
    copier = (*UV, "tool", "run", "--quiet", "--from=copier>=9.11,<10", "copier")
    data = [f"--data={answer}" for answer in answers]
    options = ("copy", "--quiet", "--defaults", "--vcs-ref=HEAD")
    subprocess.run([*copier, *options, *data, str(ROOT), str(folder)], check=True)
    lock(folder)
    return Project(name, folder)


def record(project: Project, release: int) -> None:
    """Put the recording worker into a rendered project."""
    text = (Path(__file__).parent / "recording.py").read_text()
    text = re.sub("(?m)^from workerbase", "from .workerbase", text)
    text = text.replace("RELEASE = 0\n", f"RELEASE = {release}\n")
    (project.folder / "src" / "my_worker" / "worker.py").write_text(text)
