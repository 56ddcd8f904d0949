"""Every release can be updated to what is here, whatever its project has done meanwhile."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import THOROUGH
from updates.conftest import Make, Project, run
from updates.releases import HEAD, NEXT, OLDEST, ROOT, git, releases

RELEASES = list(releases())
# Before the second release, and in a shallow clone, the working copy is the earlier one.
PAIRS = [(version, HEAD) for version in RELEASES] or [(HEAD, NEXT)]
LONGEST = {PAIRS[0], PAIRS[-1]}
"""The updates after which the tests with real processes run, too."""

every_release = pytest.mark.parametrize(("old", "new"), PAIRS)

OWN = ("src/my_worker/", "tests/", "AGENTS.md", "README.md", "CHANGELOG.md", "LICENSE")
SHARED = tuple(f"tests/test_{name}.py" for name in ("kubernetes", "limits", "metrics", "project"))
NOT_OWN = ("src/my_worker/workerbase/", "src/my_worker/py.typed", "tests/test_base.py", *SHARED)


def is_own(name: str) -> bool:
    return name.startswith(OWN) and not name.startswith(NOT_OWN)


def own_files(project: Project) -> list[str]:
    return [name for name in project.git("ls-files").splitlines() if is_own(name)]


def test_the_clone_has_the_whole_history() -> None:
    if git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip(
            f"this clone is shallow: only updates from {RELEASES or 'here'} were tested; "
            "`git fetch --unshallow` brings the rest"
        )
    before = git(ROOT, "show", "HEAD~1:CHANGELOG.md")
    assert (OLDEST in RELEASES) is (f"## [{OLDEST}]" in before)


@every_release
def test_an_untouched_project_becomes_what_a_fresh_one_would_be(
    make: Make, rendered: Callable[..., Path], old: str, new: str
) -> None:
    project = make(old)

    changed = project.update(new)

    assert not [name for name in changed if is_own(name)]
    fresh = rendered(new)
    for file in fresh.rglob("*"):
        name = file.relative_to(fresh).as_posix()
        if file.is_file() and not is_own(name):
            assert (project.path / name).read_bytes() == file.read_bytes(), name
    project.check(processes=(old, new) in LONGEST)


@every_release
def test_edits_of_its_own_files_stay(make: Make, old: str, new: str) -> None:
    project = make(old)
    for name in own_files(project):
        with (project.path / name).open("a") as file:
            file.write("OURS = 1\n" if name.endswith(".py") else "\n")
    assert run(project.path, "ruff", "format", "--no-cache").returncode == 0
    edited = {name: (project.path / name).read_text() for name in own_files(project)}
    project.commit()

    changed = project.update(new)

    assert edited
    assert {n: (project.path / n).read_text() for n in edited} == edited
    assert not changed & set(edited)
    project.check(processes=THOROUGH)


@every_release
def test_changed_answers_are_taken(make: Make, old: str, new: str) -> None:
    project = make(old)
    answers = ("-d", "description=Sends letters.", "-d", "ci=none", "-d", "author_name=Me")

    changed = project.update(new, *answers)

    assert not [name for name in changed if is_own(name)]
    pyproject = (project.path / "pyproject.toml").read_text()
    assert 'description = "Sends letters."' in pyproject
    assert 'authors = [{ name = "Me" }]' in pyproject
    assert not (project.path / ".github").exists()
    project.check()


@every_release
def test_a_drifted_base_file_is_merged_and_named_by_the_suite(
    make: Make, old: str, new: str
) -> None:
    project = make(old)
    file = project.base / "errors.py"
    first = "class WorkerError(Exception):\n"
    assert first in file.read_text()
    # Not at the end, where the next release of these tests has its own lines.
    ours = "class OurError(Exception):\n    pass\n\n\n"
    file.write_text(file.read_text().replace(first, ours + first))
    project.commit()

    project.update(new)

    assert "class OurError" in file.read_text()
    done = project.suite("-m", "not integration")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "workerbase/errors.py is edited." in done.stdout
    assert "extend it in your own modules." in done.stdout


@every_release
def test_a_project_with_other_answers_is_updated(make: Make, old: str, new: str) -> None:
    answers = ("project_name=Letter Box", "license=Proprietary", "ci=none", "python_version=3.12")
    project = make(old, *answers, "stream_name=letters", "author_email=a@example.com")

    changed = project.update(new)

    assert project.package == "letter_box"
    assert not any(name.startswith((".github", "LICENSE")) for name in changed)
    assert not [n for n in changed if is_own(n.replace("letter_box", "my_worker"))]
    project.check(processes=THOROUGH)


@every_release
@pytest.mark.parametrize("name", ["README.md", "new.txt"], ids=["edited", "untracked"])
def test_a_dirty_tree_is_refused(make: Make, old: str, new: str, name: str) -> None:
    project = make(old)
    with (project.path / name).open("a") as file:
        file.write("not committed\n")

    done = project.copier_update("--vcs-ref", new)

    assert done.returncode == 1
    assert "Destination repository is dirty" in done.stderr
    assert project.git("status", "--porcelain").split()[1:] == [name]


@every_release
def test_an_unknown_answer_is_dropped_and_a_missing_one_gets_its_default(
    make: Make, old: str, new: str
) -> None:
    project = make(old)
    answers = project.path / ".copier-answers.yml"
    kept = [li for li in answers.read_text().splitlines() if not li.startswith("stream_name")]
    answers.write_text("\n".join([*kept, "flavour: vanilla", ""]))
    project.commit()

    project.update(new)

    assert "flavour" not in answers.read_text()
    assert "stream_name: orders" in answers.read_text()
    project.check()


@every_release
@pytest.mark.parametrize("key", ["_commit", "_src_path"])
def test_answers_that_do_not_say_where_from_are_refused(
    make: Make, old: str, new: str, key: str
) -> None:
    project = make(old)
    answers = project.path / ".copier-answers.yml"
    kept = [li for li in answers.read_text().splitlines() if not li.startswith(key)]
    answers.write_text("\n".join([*kept, ""]))
    project.commit()

    done = project.copier_update("--vcs-ref", new)

    assert done.returncode == 1
    assert ("obtain old template references" if key == "_commit" else "not found") in done.stderr
    assert project.git("status", "--porcelain") == ""


@every_release
def test_a_project_that_moved_into_a_monorepo_is_updated(
    make: Make, tmp_path: Path, old: str, new: str
) -> None:
    project = make(old)
    shutil.rmtree(project.path / ".git")
    project.repository = tmp_path / "monorepo"
    (project.repository / "services").mkdir(parents=True)
    shutil.move(project.path, project.repository / "services" / "worker")
    project.path = project.repository / "services" / "worker"
    (project.repository / "README.md").write_text("# Everything\n")
    project.git("init", "--quiet")
    project.commit()
    (project.repository / "README.md").write_text("# Everything, edited meanwhile\n")

    changed = project.update(new) - {"../../README.md"}

    assert changed
    assert not [name for name in changed if is_own(name) or name.startswith("..")]
    project.check()


@every_release
def test_own_files_that_were_deleted_stay_away(make: Make, old: str, new: str) -> None:
    project = make(old)
    deleted = ("tests/test_tasks.py", "tests/test_project.py", "LICENSE", "CHANGELOG.md")
    for name in deleted:
        (project.path / name).unlink()
    project.commit()

    project.update(new)

    assert not [name for name in deleted if (project.path / name).exists()]
    project.check()


@every_release
def test_line_endings_of_windows_neither_conflict_nor_count_as_drift(
    make: Make, old: str, new: str
) -> None:
    project = make(old)
    for file in [*project.base.rglob("*.py"), *project.base.rglob("*.lua")]:
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    project.git("add", "--renormalize", ".")
    project.commit()

    project.update(new)

    project.check()
