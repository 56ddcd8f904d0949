"""The workflow that releases the template: its steps are run here, in bash."""

import shutil
from pathlib import Path

import pytest
from updates.releases import release_problems
from workflowkit import Workflow, write_tool

ROOT = Path(__file__).parents[2]
FILE = ROOT / ".github" / "workflows" / "release.yml"
TAG = "inputs.version || github.ref_name"

CHANGELOG = """# Changelog

## [Unreleased]

## [1.0.0] - 2026-12-01

- All of
  it.

## [1.0.0rc1] - 2026-11-25

- Most of it.
"""

GH = """#!/bin/sh
for argument; do printf '<%s>' "$argument"; done > gh-called
printf '%s' "$GH_TOKEN" > gh-token
"""


@pytest.fixture
def release(tmp_path: Path) -> Workflow:
    """The workflow in a checkout, started by the tag 1.0.0."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "release_notes.py", tmp_path / "tools")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    tools = tmp_path / "bin"
    write_tool(tools, "gh", GH)
    values = {TAG: "1.0.0", "github.token": "t0ken"}
    return Workflow(FILE, tmp_path, values, tools, {"GITHUB_SHA": "c0ffee"})


def test_a_tag_becomes_a_release_with_the_notes_of_its_version(release: Workflow) -> None:
    checked = release.run("check", "Find the notes of the version")
    created = release.run("publish", "Create the release")

    assert (checked.returncode, checked.said) == (0, "- All of it.\n")
    assert (created.returncode, created.said) == (0, "")
    assert (release.folder / "notes.md").read_text() == "- All of it.\n"
    assert (release.folder / "gh-called").read_text() == (
        "<release><create><1.0.0><--target><c0ffee><--title><1.0.0>"
        f"<--notes-file><{release.folder}/notes.md><--prerelease=false>"
    )
    assert (release.folder / "gh-token").read_text() == "t0ken"


def test_a_release_candidate_becomes_a_pre_release(release: Workflow) -> None:
    changelog = release.folder / "CHANGELOG.md"
    changelog.write_text(CHANGELOG.replace("[1.0.0]", "[1.0.0rc2]"))
    release.values[TAG] = "v1.0.0rc2"

    assert release.run("publish", "Create the release").returncode == 0

    called = (release.folder / "gh-called").read_text()
    assert called.startswith("<release><create><v1.0.0rc2>")
    assert called.endswith("<--prerelease=true>")


@pytest.mark.parametrize("tag", ["1.1.0", "1.0.0rc1", "main", "1.0.0; touch pwned", "--help"])
def test_any_other_tag_is_refused_before_anything_runs(release: Workflow, tag: str) -> None:
    release.values[TAG] = tag

    assert release.run("check", "Find the notes of the version").returncode != 0
    assert release.run("publish", "Create the release").returncode != 0

    assert not (release.folder / "gh-called").exists()
    assert not (release.folder / "pwned").exists()


def test_it_checks_what_the_release_session_checks(release: Workflow) -> None:
    release.folder = ROOT
    problems = release_problems()

    checked = release.run("check", "Check manifests, kept payloads and tags")

    assert checked.said == "".join(f"{problem}\n" for problem in problems)
    assert checked.returncode == (1 if problems else 0)


def test_each_job_needs_the_one_before_and_only_the_last_may_write(release: Workflow) -> None:
    jobs = release.jobs

    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "check": None,
        "tests": "check",
        "publish": "tests",
    }
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "check": {"contents": "read"},
        "tests": {"contents": "read"},
        "publish": {"contents": "write"},
    }
    assert not [script for _, script in release.scripts() if "${{" in script]
