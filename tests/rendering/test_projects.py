"""Rendered projects pass their own tests, linter, formatter and type checkers."""

import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from pytest_copier.plugin import CopierFixture
from rendering_support import Answers, describe, environment, git, pairwise, tool

pytestmark = pytest.mark.render

CHECKS = {
    "pytest": ("pytest", "-q", "-p", "no:cacheprovider"),
    "mypy": ("mypy",),
    "pyright": ("pyright",),
    "ruff check": ("ruff", "check"),
    "ruff format": ("ruff", "format", "--check"),
}

# Each answer runs on the oldest Python that it promises; the defaults on every one.
RUNS = [(answers["python_version"], answers) for answers in pairwise()]
DEFAULTS = RUNS[0][1]
RUNS += [(python, DEFAULTS) for python in ("3.12", "3.13")]

STRANGE_FOLDERS = {"3.12": "Zoë's Wörker (new)"}
"""Where the projects of this Python lie, as homes on Windows and macOS may be called."""


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[str, Path]]:
    """A folder for each Python, where projects come one after the other and share a cache."""
    with tempfile.TemporaryDirectory(prefix="render-") as folder:
        yield {
            python: Path(folder) / STRANGE_FOLDERS.get(python, python) / "project"
            for python in ("3.11", "3.12", "3.13")
        }


def clear(project: Path) -> None:
    """Remove a former project, without what takes long to make again."""
    for path in project.iterdir() if project.exists() else ():
        if path.is_dir() and path.name not in {".venv", ".mypy_cache"}:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def run_checks(project: Path) -> dict[str, str]:
    """Run all checks side by side; return the output of those that fail."""
    running = {
        name: subprocess.Popen(
            [project / ".venv" / "bin" / command[0], *command[1:]],
            cwd=project,
            env=environment() | {"CI": "true"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, command in CHECKS.items()
    }
    failed: dict[str, str] = {}
    for name, process in running.items():
        output, _ = process.communicate(timeout=300)
        if process.returncode:
            failed[name] = output
    return failed


@pytest.mark.parametrize(
    ("python", "answers"), RUNS, ids=[f"{python}:{describe(a)}" for python, a in RUNS]
)
def test_a_project_passes_its_own_checks(
    copier: CopierFixture, homes: dict[str, Path], python: str, answers: Answers
) -> None:
    project = homes[python]
    clear(project)
    copier.copy(project, **answers)
    git(project.parent, "init", "--quiet", str(project))
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Start")

    tool("uv", "sync", "--quiet", "--python", python, cwd=project)
    version = subprocess.check_output([project / ".venv" / "bin" / "python", "-V"], text=True)
    assert version.startswith(f"Python {python}.")
    failed = run_checks(project)

    assert not failed, "\n".join(f"--- {name}\n{output}" for name, output in failed.items())
    assert git(project, "status", "--porcelain") == "?? uv.lock\n"


def test_a_failing_check_is_noticed(copier: CopierFixture, homes: dict[str, Path]) -> None:
    project = homes["3.11"]
    clear(project)
    copier.copy(project)
    tool("uv", "sync", "--quiet", "--python", "3.11", cwd=project)
    package = project / "src" / "my_worker"
    (package / "tasks.py").write_text(
        (package / "tasks.py").read_text("utf-8").replace("def send_confirmation", "def confirm"),
        "utf-8",
    )
    (package / "handlers.py").write_text(
        (package / "handlers.py").read_text("utf-8").replace("PermanentError(f", "KeyError(f"),
        "utf-8",
    )

    assert set(run_checks(project)) == {"pytest", "mypy", "pyright", "ruff check"}


def test_the_wheel_holds_package_licence_and_type_marker(
    copier: CopierFixture, tmp_path: Path
) -> None:
    project = copier.copy(tmp_path / "project").path

    tool("uv", "build", "--quiet", "--wheel", cwd=project)

    (wheel,) = (project / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"my_worker/py.typed", "my_worker/workerbase/probe.py"} <= names
    assert "my_worker-0.1.0.dist-info/licenses/LICENSE" in names
    assert not {name for name in names if not name.startswith("my_worker")}


@pytest.mark.parametrize("telemetry", [False, True])
def test_the_bill_of_materials_is_valid_and_lists_what_the_image_installs(
    copier: CopierFixture, tmp_path: Path, telemetry: bool
) -> None:
    project = copier.copy(tmp_path / "project", telemetry=telemetry).path
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    (options,) = re.findall(r"run: uv (export .*)$", workflow, re.MULTILINE)

    tool("uv", *options.split(), cwd=project)

    text = (project / "sbom.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text.replace("purl", "pearl"))
    listed = {component["name"] for component in json.loads(text)["components"]}
    assert {"arq", "redis"} <= listed
    dockerfile = (project / "Dockerfile").read_text("utf-8")
    assert ("--all-extras" in dockerfile) is ("sentry-sdk" in listed) is telemetry
    assert not listed & {"pytest", "ruff"}
