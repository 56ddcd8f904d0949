"""Fixtures: a template with a history, and projects that were made from it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import as_installed
import pytest
import quick_copier
import quick_python
from thorough import THOROUGH
from updates.releases import NEXT, build_history, git, git_environment, integrity

MARKERS = re.compile(r"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)

Done = subprocess.CompletedProcess[str]


def run(folder: Path, *command: str, **environment: str) -> Done:
    """Run a Python module in ``folder``; the caller looks at the exit code."""
    module, *arguments = command
    start = [quick_copier.COMMAND] if module == "copier" else ["-m", module]
    return quick_python.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=git_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Project:
    """A project that was rendered and committed."""

    path: Path
    package: str = "my_worker"
    repository: Path = field(init=False)
    site: Path = field(init=False)
    """Where its metadata are, as an installer writes them."""

    def __post_init__(self) -> None:
        self.repository = self.path
        self.site = self.path.parent / "site"

    @property
    def source(self) -> Path:
        return self.path / "src" / self.package

    @property
    def base(self) -> Path:
        return self.source / "workerbase"

    def git(self, *arguments: str) -> str:
        return git(self.repository, *arguments)

    def run(self, *command: str, **environment: str) -> Done:
        """Run a module where the project is installed as it is now, as `uv sync` would do it."""
        path = as_installed.python_path(self.path, self.site)
        return run(self.path, *command, PYTHONPATH=path, **environment)

    def command(self, *arguments: str, **environment: str) -> Done:
        """Run a command of the worker."""
        return self.run(self.package, *arguments, **environment)

    def commands(self) -> set[str]:
        """Return the commands that it lists."""
        done = self.command("--help")
        assert done.returncode == 0, done.stderr
        listed = done.stdout.partition("Commands:\n")[2]
        return {line.split()[0] for line in listed.splitlines() if line.strip()}

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "commit")

    def copier_update(self, *arguments: str) -> Done:
        return run(self.path, "copier", "update", "--defaults", *arguments)

    def update(self, to: str, *arguments: str) -> set[str]:
        """Update, check that all went without conflict, and return the files that changed."""
        which = () if to == NEXT else ("--vcs-ref", to)  # the newest tag needs no asking for
        done = self.copier_update(*which, *arguments)
        assert done.returncode == 0, done.stderr
        self.git("add", "--intent-to-add", "--all")
        status = self.git("status", "--porcelain", "-z").split("\0")
        assert not [line for line in status if line[:2] in ("UU", "AA", "DU", "UD")], status
        changed = self.git("diff", "--name-only", "-z", "HEAD").split("\0")[:-1]
        for name in changed:
            assert not name.endswith((".rej", ".orig")), name
            if (self.repository / name).is_file():
                assert not MARKERS.search((self.repository / name).read_text()), name
        assert f"_commit: {to}" in (self.path / ".copier-answers.yml").read_text()
        return {os.path.relpath(self.repository / name, self.path) for name in changed}

    def check(self, *, processes: bool = False) -> None:
        """Check lint, format, the commands, and that nothing drifted.

        The suite takes most of the time: it runs if everything is tested, and with ``processes``,
        which are its own tests with real ones.
        """
        for command in (("check", "--no-cache"), ("format", "--no-cache", "--check")):
            done = run(self.path, "ruff", *command)
            assert done.returncode == 0, done.stdout + done.stderr
        assert self.commands() >= {"base", "dlq", "enqueue", "health", "run", "status"}
        assert integrity.find_drift(self.base) == []
        if processes or THOROUGH:
            done = self.suite(*() if processes else ("-m", "not integration"))
            assert done.returncode == 0, done.stdout + done.stderr

    def suite(self, *arguments: str) -> Done:
        """Run its own tests with the packages that are here."""
        plugins = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
        only_these = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return self.run("pytest", "-q", *plugins, *arguments, **only_these)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a tag for each release, for the working copy, and for one to come."""
    return build_history(tmp_path_factory.mktemp("history") / "template")


Make = Callable[..., Project]


@pytest.fixture(scope="session")
def rendered(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Render a release with some answers, once for all tests."""
    done: dict[tuple[str, ...], Path] = {}

    def render(version: str, *answers: str) -> Path:
        key = (version, *answers)
        if key not in done:
            path = tmp_path_factory.mktemp("rendered") / "project"
            data = [f"--data={answer}" for answer in answers]
            arguments = ("copy", "--quiet", "--defaults", "--vcs-ref", version, *data)
            rendering = run(path.parent, "copier", *arguments, str(history), str(path))
            assert rendering.returncode == 0, rendering.stderr
            done[key] = path
        return done[key]

    return render


@pytest.fixture
def make(rendered: Callable[..., Path], tmp_path: Path) -> Make:
    """Make a project from a release, as one would, without --trust."""

    def project(version: str, *answers: str) -> Project:
        path = tmp_path / "project"
        shutil.copytree(rendered(version, *answers), path)
        found = Project(path, next((path / "src").iterdir()).name)
        found.git("init", "--quiet", "--initial-branch=main")
        found.commit()
        return found

    return project


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks of git set variables that would lead git to another repository."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
