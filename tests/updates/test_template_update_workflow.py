"""The workflow of a generated project that updates it: its steps are run here, in bash."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from updates.conftest import Make, Project
from updates.releases import HEAD, NEXT, git, git_environment

WORKFLOW = Path(".github/workflows/template-update.yml")

UVX = """#!/bin/sh
[ "$1 $2 $3" = "--from copier>=9.11,<10 copier" ] || exit 64
shift 3
exec "{python}" -m copier "$@"
"""
UV = """#!/bin/sh
echo "uv $*" >> "{log}"
[ "$1" = sync ] && [ -f uv.lock ] && echo locked > uv.lock
[ "$1" = sync ] && exit 0
exit {suite}
"""
GH = """#!/bin/sh
echo "gh $*" >> "{log}"
case "$1 $2" in
  "pr list")
    [ "$5 $6" = "--state all" ] || exit 64
    echo {requests} ;;
  "pr create") cp "$RUNNER_TEMP/body.md" "{log}.body" ;;
esac
"""


@dataclass
class Job:
    """The job of the workflow, in the place of GitHub."""

    project: Project
    folder: Path
    suite: int = 0
    requests: int = 0
    """Pull requests for the branch, open or closed."""

    @property
    def origin(self) -> Path:
        return self.folder / "origin.git"

    @property
    def calls(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    @property
    def body(self) -> str:
        return (self.folder / "log.body").read_text()

    def tools(self) -> Path:
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        words = {
            "python": sys.executable,
            "log": self.folder / "log",
            "suite": self.suite,
            "requests": self.requests,
        }
        for name, text in (("uvx", UVX), ("uv", UV), ("gh", GH)):
            (tools / name).write_text(text.format(**words))
            (tools / name).chmod(0o755)
        return tools

    def run(self, *, after: str = "", own_token: bool = True) -> tuple[str, str]:
        """Run the steps behind the one named ``after``.

        Returns:
            The name of the step that failed, or nothing, and what it said.
        """
        output = self.folder / "output"
        output.write_text(f"old={HEAD}\nnew={NEXT}\n" if after else "")
        workflow = yaml.safe_load((self.project.path / WORKFLOW).read_text())
        steps = [step for step in workflow["jobs"]["update"]["steps"] if "run" in step]
        names = [step["name"] for step in steps]
        for step in steps[names.index(after) + 1 if after else 0 :]:
            outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
            assert step.get("if", "steps.update.outputs.new") == "steps.update.outputs.new"
            if "if" in step and not outputs.get("new"):
                continue
            env = {
                **git_environment(),
                "PATH": f"{self.tools()}:/usr/bin:/bin",
                "GITHUB_OUTPUT": str(output),
                "RUNNER_TEMP": str(self.folder),
                "OLD": outputs.get("old", ""),
                "NEW": outputs.get("new", ""),
                "OWN_TOKEN": str(own_token).lower(),
            }
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=self.project.path, env=env, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                return step["name"], done.stdout + done.stderr
        return "", ""


LOOKED = "Look for conflicts"


@pytest.fixture
def job(make: Make, tmp_path: Path) -> Job:
    """A job whose project can be updated."""
    return Job(make(HEAD), tmp_path)


@pytest.fixture(scope="module")
def updated_project(
    rendered: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project on which the steps until ``LOOKED`` have run, with success."""
    folder = tmp_path_factory.mktemp("updated")
    project = Project(shutil.copytree(rendered(HEAD), folder / "project"))
    (project.path / "uv.lock").write_text("old")
    project.git("init", "--quiet", "--initial-branch=main")
    project.commit()
    job = Job(project, folder, suite=1)
    assert job.run() == ("Test", "")
    return project


@pytest.fixture
def updated(updated_project: Project, tmp_path: Path) -> Job:
    """A job that has updated its project and still has to test and push it."""
    project = Project(shutil.copytree(updated_project.path, tmp_path / "project"))
    job = Job(project, tmp_path)
    git(tmp_path, "clone", "--quiet", "--bare", str(project.path), str(job.origin))
    project.git("remote", "add", "origin", str(job.origin))
    return job


def test_it_pushes_the_update_and_opens_a_pull_request_with_the_changelog(updated: Job) -> None:
    assert updated.run(after=LOOKED) == ("", "")

    branch = f"template-{NEXT}"
    answers = git(updated.origin, "show", f"{branch}:.copier-answers.yml")
    assert f"_commit: {NEXT}" in answers
    # uv sync brought it up to date; the image is built with --locked.
    assert git(updated.origin, "show", f"{branch}:uv.lock") == "locked\n"
    create = f"gh pr create --head {branch} --title Update arq-worker-template to {NEXT}"
    assert updated.calls.splitlines() == [
        "uv sync",
        "uv run pytest",
        f"gh pr list --head {branch} --state all --json number --jq length",
        "gh auth setup-git",
        f"{create} --body-file {updated.folder}/body.md",
    ]
    first, *changes = updated.body.splitlines()
    assert first == f"From {HEAD} to {NEXT}; the tests pass. What changed in the template:"
    assert changes == ["# of the next release"]


def push_as_somebody(job: Job) -> str:
    """Push a person's commit to the branch of the update; return it."""
    branch = f"template-{NEXT}"
    clone = job.folder / "clone"
    git(job.folder, "clone", "--quiet", str(job.origin), str(clone))
    git(clone, "switch", "--quiet", "--create", branch)
    (clone / "README.md").write_text("Mine")
    git(clone, "commit", "--quiet", "--all", "--message", "Follow the update")
    git(clone, "push", "--quiet", "origin", branch)
    return git(clone, "rev-parse", "HEAD")


def test_a_commit_of_a_person_on_the_open_branch_stays(updated: Job) -> None:
    commit = push_as_somebody(updated)
    updated.requests = 1

    assert updated.run(after=LOOKED) == ("", "")

    assert git(updated.origin, "rev-parse", f"template-{NEXT}") == commit
    assert "pr create" not in updated.calls


def test_a_pull_request_that_was_closed_does_not_come_back(updated: Job) -> None:
    updated.requests = 1

    assert updated.run(after=LOOKED) == ("", "")

    assert "pr create" not in updated.calls
    assert git(updated.origin, "branch", "--list", "template-*") == ""


def test_a_branch_without_a_pull_request_gets_one_and_is_not_overwritten(updated: Job) -> None:
    commit = push_as_somebody(updated)

    assert updated.run(after=LOOKED) == ("", "")

    assert git(updated.origin, "rev-parse", f"template-{NEXT}") == commit
    assert "pr create" in updated.calls


def test_nothing_is_pushed_when_the_suite_fails(updated: Job) -> None:
    updated.suite = 1

    assert updated.run(after=LOOKED)[0] == "Test"

    assert "gh" not in updated.calls
    assert git(updated.origin, "branch", "--list", "template-*") == ""


def test_without_a_token_of_its_own_it_says_that_workflows_cannot_be_pushed(updated: Job) -> None:
    step, said = updated.run(after=LOOKED, own_token=False)

    assert step == "Open a pull request"
    assert f"::error::{NEXT} changes workflows, which needs the secret TEMPLATE_UPDATE_" in said
    assert git(updated.origin, "branch", "--list", "template-*") == ""


def test_nothing_happens_when_nothing_is_new(make: Make, tmp_path: Path) -> None:
    job = Job(make(NEXT), tmp_path)

    assert job.run() == ("", "")

    assert job.calls == ""


def test_a_conflict_fails_it_and_is_named(job: Job) -> None:
    with (job.project.base / "errors.py").open("a") as file:
        file.write("# ours, where the next release has its own\n")
    job.project.commit()

    step, said = job.run()

    assert step == "Look for conflicts"
    assert "::error::Conflicts; run 'uvx copier update' yourself and resolve them:" in said
    assert "src/my_worker/workerbase/errors.py" in said
    assert job.calls == ""


def test_its_actions_are_pinned_and_its_rights_are_few(rendered: Callable[..., Path]) -> None:
    file = rendered(HEAD) / WORKFLOW
    text = file.read_text()
    workflow = yaml.safe_load(text)

    assert workflow["permissions"] == {}
    update = workflow["jobs"]["update"]
    assert update["permissions"] == {"contents": "write", "pull-requests": "write"}
    used = [step["uses"] for step in update["steps"] if "uses" in step]
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name) for name in used)
    assert update["steps"][0]["with"] == {"persist-credentials": False}
    # Only the last step has a token, and no expression is pasted into a shell.
    assert [s["name"] for s in update["steps"] if "TOKEN" in str(s)] == ["Open a pull request"]
    assert not [s for s in update["steps"] if "${{" in s.get("run", "")]
    assert "--trust" not in text
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows",
         str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_without_github_there_is_no_workflow(rendered: Callable[..., Path]) -> None:
    assert not (rendered(HEAD, "ci=none") / ".github").exists()
