"""Whose a file is: README says it in one table, and `copier update` keeps to it."""

import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from thorough import THOROUGH
from updates.conftest import Make
from updates.releases import HEAD, NEXT, ROOT

TEMPLATE, YOURS, SHARED = "the template's", "yours", "shared"


def read_table(text: str) -> list[tuple[str, str]]:
    """Return (pattern, owner) of each pattern in the table, in its order."""
    table = text.partition("| files | whose |")[2].partition("\n\n")[0]
    rows: list[tuple[str, str]] = []
    for row in table.splitlines()[2:]:
        files, whose = (cell.strip() for cell in row.split("|")[1:3])
        patterns = re.findall("`([^`]+)`", files) or ["*"]
        rows += [(pattern, whose.partition(":")[0]) for pattern in patterns]
    return rows


def owner(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, whose in table:
        folder = pattern.endswith("/") or pattern == "*"
        # A star of the table does not reach into folders.
        if fnmatch(name, pattern.rstrip("*") + "*" if folder else pattern) and (
            folder or name.count("/") == pattern.count("/")
        ):
            return whose
    raise AssertionError(name)


Answers = tuple[str, ...]


CHOSEN: dict[str, Answers] = {
    "defaults": (),
    "all": ("features=[streams, devtools, console, leased_jobs, telemetry, kubernetes]",),
}
if THOROUGH:
    CHOSEN["none"] = ("features=[]",)


@pytest.fixture(params=CHOSEN.values(), ids=CHOSEN)
def answers(request: pytest.FixtureRequest) -> Answers:
    return request.param


@pytest.fixture
def table(rendered: Callable[..., Path], answers: Answers) -> list[tuple[str, str]]:
    return read_table((rendered(HEAD, *answers) / "README.md").read_text())


def test_both_readmes_have_the_same_table(rendered: Callable[..., Path]) -> None:
    of_template = read_table((ROOT / "README.md").read_text())
    of_project = read_table((rendered(HEAD, *CHOSEN["all"]) / "README.md").read_text())

    assert of_template == of_project
    assert {whose for _, whose in of_project} == {TEMPLATE, YOURS, SHARED}


def test_an_update_changes_what_the_table_allows_and_all_of_it(
    make: Make, table: list[tuple[str, str]], answers: Answers
) -> None:
    project = make(HEAD, *answers)
    files = set(project.git("ls-files").splitlines())

    changed = project.update(NEXT)

    expected = {name for name in files if owner(name, table) != YOURS}
    assert {owner(name, table) for name in files} == {TEMPLATE, YOURS, SHARED}
    assert changed == expected


def test_shared_files_keep_edits_of_both_sides(
    make: Make, table: list[tuple[str, str]], answers: Answers
) -> None:
    project = make(HEAD, *answers)
    shared = [
        name
        for name in project.git("ls-files").splitlines()
        if owner(name, table) == SHARED
        and name != ".copier-answers.yml"
        and len((project.path / name).read_text().splitlines()) > 3
    ]
    for name in shared:
        file = project.path / name
        file.write_text("# ours\n" + file.read_text())
    project.commit()

    project.update(NEXT)

    for name in shared:
        text = (project.path / name).read_text()
        assert text.startswith("# ours\n"), name
        assert text.endswith("# of the next release\n"), name


def test_whatever_a_project_deleted_stays_away(make: Make, answers: Answers) -> None:
    project = make(HEAD, *answers)
    deleted = [
        name
        for name in project.git("ls-files").splitlines()
        if not name.startswith("src/my_worker/workerbase/") and name != ".copier-answers.yml"
    ]
    for name in deleted:
        (project.path / name).unlink()
    project.commit()

    project.update(NEXT)

    assert [name for name in deleted if (project.path / name).exists()] == []


def test_the_base_and_its_test_say_whose_they_are_and_how_to_extend_them(
    rendered: Callable[..., Path],
) -> None:
    for name in ("src/my_worker/workerbase/README.md", "tests/test_base.py"):
        text = " ".join((rendered(HEAD) / name).read_text().split())
        assert re.search("[Tt]he template owns this (folder|file)", text), name
        assert "`copier update` overwrites edits" in text, name
        assert "of your own" in text, name
