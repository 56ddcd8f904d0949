"""A variable whose setting a release renames is still read in a project that is updated to it."""

import re
import sys
from pathlib import Path
from subprocess import run

import pytest
from updates.conftest import Make, Project
from updates.releases import BASE, HEAD, git, git_environment, write_manifests

OLD, NEW, RELEASE = "retry_backoff_max", "retry_backoff_cap", f"{HEAD}.post1"
OLD_VARIABLE, NEW_VARIABLE = f"WORKER_{OLD.upper()}", f"WORKER_{NEW.upper()}"


@pytest.fixture(scope="module")
def renaming(history: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a release of the template that renames a setting as CONTRIBUTING says."""
    tree = tmp_path_factory.mktemp("renaming") / "template"
    git(history, "worktree", "add", "--quiet", "--detach", str(tree), HEAD)
    for file in (tree / "template/.env.example.jinja", *(tree / BASE).rglob("*.py")):
        text = file.read_text()
        text = re.sub(rf"\b{OLD}\b", NEW, text).replace(OLD_VARIABLE, NEW_VARIABLE)
        file.write_text(text)
    config = tree / BASE / "config.py"
    names = f'validation_alias=AliasChoices("{NEW_VARIABLE}", "{OLD_VARIABLE}")'
    text = config.read_text()
    text, fields = re.subn(rf"({NEW}: float = Field\()", rf"\1{names}, ", text)
    text, imports = re.subn("from pydantic import", r"\g<0> AliasChoices\n\g<0>", text)
    assert (fields, imports) == (1, 1)
    config.write_text(text)
    write_manifests(tree / BASE, RELEASE)
    git(tree, "commit", "--quiet", "--all", "--message", RELEASE)
    git(tree, "tag", RELEASE)
    return RELEASE


def read(project: Project, **environment: str) -> tuple[str, list[str]]:
    """Return the setting as the project's worker has it, and which variables it does not know."""
    code = (
        "from my_worker.worker import WorkerSettings; from my_worker.settings import Config;"
        f"print(WorkerSettings.config.{NEW}, *Config.unknown_variables())"
    )
    done = run(
        [sys.executable, "-c", code],
        cwd=project.path,
        env={**git_environment(), "PYTHONPATH": str(project.path / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value, *unknown = done.stdout.split()
    return value, [name for name in unknown if name.startswith((OLD_VARIABLE, NEW_VARIABLE))]


def test_both_variables_are_read_after_the_update(make: Make, renaming: str) -> None:
    project = make(HEAD)

    changed = project.update(renaming)

    assert f"#{NEW_VARIABLE}=300" in (project.path / ".env.example").read_text()
    assert not [name for name in changed if "/workerbase/" not in name and name.endswith(".py")]
    assert read(project) == ("300.0", [])
    assert read(project, **{OLD_VARIABLE: "30"}) == ("30.0", [])
    assert read(project, **{NEW_VARIABLE: "20"}) == ("20.0", [])
    assert read(project, **{OLD_VARIABLE: "30", NEW_VARIABLE: "20"}) == ("20.0", [])
    (project.path / ".env").write_text(f"{OLD_VARIABLE}=10\n")
    assert read(project) == ("10.0", [])
    (project.path / ".env").unlink()
    project.check(processes=True)
