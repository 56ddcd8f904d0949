"""A setting that a release renames goes on to work in a project that is updated to it."""

import re
import sys
from pathlib import Path
from subprocess import run

import pytest
from updates.conftest import Make, Project
from updates.releases import BASE, HEAD, drift, git, git_environment

OLD, NEW, RELEASE = "consumer_group", "group_of_workers", "99.0.1"
"""The generated project gives this setting a default of its own, under its old name."""


@pytest.fixture(scope="module")
def renaming(history: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a release of the template that renames a setting; return its version."""
    tree = tmp_path_factory.mktemp("renaming") / "template"
    git(history, "worktree", "add", "--quiet", "--detach", str(tree), HEAD)
    for file in (tree / "template/.env.example.jinja", *(tree / BASE).rglob("*.py")):
        text = file.read_text()
        text = re.sub(rf"\b{OLD}\b", NEW, text).replace(f"WORKER_{OLD.upper()}", NEW_VARIABLE)
        file.write_text(text)
    table = tree / BASE / "renames.py"
    empty, full = "Renamed] = {}", f'Renamed] = {{"{OLD}": Renamed("{NEW}", "100.0.0")}}'
    assert empty in table.read_text()
    table.write_text(table.read_text().replace(empty, full))
    (tree / BASE / drift.MANIFEST).write_text(drift.manifest(RELEASE, tree / BASE))
    git(tree, "commit", "--quiet", "--all", "--message", RELEASE)
    git(tree, "tag", RELEASE)
    return RELEASE


OLD_VARIABLE, NEW_VARIABLE = f"WORKER_{OLD.upper()}", f"WORKER_{NEW.upper()}"


def read(project: Project, **environment: str) -> tuple[str, str]:
    """Return the setting as the project's worker has it, and what is logged on the way."""
    code = f"from my_worker.worker import WorkerSettings; print(WorkerSettings.config.{NEW})"
    done = run(
        [sys.executable, "-c", code],
        cwd=project.path,
        env={**git_environment(), "PYTHONPATH": str(project.path / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_the_old_name_works_with_a_warning_after_the_update(make: Make, renaming: str) -> None:
    project = make(HEAD)

    changed = project.update(renaming)

    until = "the old name works until release 100.0.0"
    assert f"#{NEW_VARIABLE}=my-worker" in (project.path / ".env.example").read_text()
    assert "src/my_worker/settings.py" not in changed
    assert OLD in (project.path / "src/my_worker/settings.py").read_text()
    in_code = f"Config.{OLD} is Config.{NEW} now; {until}"
    assert read(project) == ("my-worker", in_code)
    assert read(project, **{NEW_VARIABLE: "new"}) == ("new", in_code)
    in_variable = f"{OLD_VARIABLE} is {NEW_VARIABLE} now; {until}"
    assert read(project, **{OLD_VARIABLE: "old"}) == ("old", f"{in_code}\n{in_variable}")
    project.check(processes=True)
