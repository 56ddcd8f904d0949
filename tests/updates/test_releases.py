"""The list of releases grows by itself, and a release is checked before it is tagged."""

import shutil
from pathlib import Path

import pytest
from updates.releases import (
    BASE,
    FEATURES,
    HEAD,
    NEXT,
    OLDEST,
    ROOT,
    build_history,
    changelog_version,
    copy_working_tree,
    git,
    integrity,
    release_problems,
    releases,
    write_manifests,
)

UNRELEASED = "# Changelog\n\n## [Unreleased]\n"
EARLIER = f"{UNRELEASED}\n## [0.9.0] - 2026-11-23\n\n- Some of it.\n"
_FIRST = f"\n## [{OLDEST}] - 2026-11-23\n\n- Most of it.\n"
FIRST = UNRELEASED + _FIRST
RELEASED = f"{UNRELEASED}\n## [1.0.0] - 2026-11-24\n\n### Added\n\n- All of it.\n{_FIRST}"


def write_and_commit(repository: Path, **files: str) -> str:
    for name, text in files.items():
        (repository / name.replace("_", ".")).write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "commit")
    return git(repository, "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "template")
    return tmp_path / "template"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (UNRELEASED, "0"),
        (UNRELEASED + "\n### Added\n\n- Something.\n", "0+unreleased"),
        (RELEASED, "1.0.0"),
        (RELEASED.replace("sed]\n", "sed]\n\n- More.\n", 1), "1.0.0+unreleased"),
        (RELEASED + "\n## [0.9.0] - 2026-01-01\n\n- Less.\n", "1.0.0"),
    ],
)
def test_the_version_stands_in_the_changelog(text: str, version: str) -> None:
    assert changelog_version(text) == version


def test_releases_come_from_the_changelog_and_tags_from_the_oldest_on(repository: Path) -> None:
    write_and_commit(repository, copier_yml="", CHANGELOG_md=UNRELEASED)
    write_and_commit(repository, CHANGELOG_md=EARLIER)
    git(repository, "tag", "0.9.0")
    assert releases(repository) == {}

    first = write_and_commit(repository, CHANGELOG_md=FIRST)
    assert releases(repository) == {}  # it is not an earlier one

    changelog = write_and_commit(repository, CHANGELOG_md=RELEASED)
    write_and_commit(repository, CHANGELOG_md=RELEASED.replace("sed]\n", "sed]\n\n- More.\n", 1))
    tagged = write_and_commit(repository, copier_yml="# 1.1.0")
    git(repository, "tag", "v1.1.0")
    git(repository, "tag", "no-version")
    assert releases(repository) == {OLDEST: first, "1.0.0": changelog}

    write_and_commit(repository, copier_yml="# now")

    assert releases(repository) == {OLDEST: first, "1.0.0": changelog, "1.1.0": tagged}


def test_a_shallow_clone_has_the_releases_that_it_can_have(repository: Path) -> None:
    first = write_and_commit(repository, copier_yml="", CHANGELOG_md=FIRST)
    changelog = write_and_commit(repository, CHANGELOG_md=RELEASED)
    write_and_commit(repository, copier_yml="# now")
    everything = {OLDEST: first, "1.0.0": changelog}
    for depth, expected in (("1", {}), ("2", {"1.0.0": changelog}), ("3", everything)):
        clone = repository.parent / depth
        git(repository, "clone", "--quiet", "--depth", depth, repository.as_uri(), str(clone))

        assert releases(clone) == expected


def test_the_history_has_the_working_copy_as_it_is_now(repository: Path, tmp_path: Path) -> None:
    write_and_commit(repository, copier_yml="committed", CHANGELOG_md=UNRELEASED)
    (repository / "copier.yml").write_text("edited")
    (repository / "template").mkdir()
    (repository / "template" / "new.txt").write_text("not added yet")

    target = tmp_path / "target"
    target.mkdir()
    copy_working_tree(target, repository)

    assert (target / "copier.yml").read_text() == "edited"
    assert (target / "template" / "new.txt").read_text() == "not added yet"


def test_the_history_has_a_tag_for_each_release(tmp_path: Path) -> None:
    built = build_history(tmp_path / "history")

    assert git(built, "tag").split() == sorted([*releases(), HEAD, NEXT])


def test_each_feature_has_a_manifest_of_its_own_and_the_core_lists_the_rest(
    repository: Path,
) -> None:
    base = repository / BASE
    for name in ("base.py", "testing/commands.py", *(f"{feature}/a.py" for feature in FEATURES)):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    shutil.rmtree(base / "jobs")  # a project may leave it out

    write_manifests(base, "1.2.3")

    listed = {
        part.relative_to(base).as_posix(): [
            line.split()[1]
            for line in (part / integrity.MANIFEST).read_text().splitlines()
            if not line.startswith("#")
        ]
        for part in integrity.parts(base)
    }
    features = {name: ["a.py"] for name in FEATURES if name != "jobs"}
    assert listed == {".": ["base.py", "testing/commands.py"], **features}
    assert integrity.read_manifest(base)[0] == "1.2.3"
    assert integrity.find_drift(base) == []


@pytest.fixture
def ready(repository: Path) -> Path:
    """A template that can be released as 1.0.0."""
    shutil.copytree(ROOT / BASE, repository / BASE, ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "tests/updates/golden/1.0.0").mkdir(parents=True)
    (repository / "tests/updates/golden/1.0.0/jobs.json").write_text("{}\n")
    (repository / "CHANGELOG.md").write_text(RELEASED)
    write_manifests(repository / BASE, "1.0.0")
    write_and_commit(repository)
    return repository


def test_a_template_that_is_ready_has_no_problems(ready: Path) -> None:
    assert release_problems(ready) == []
    assert integrity.read_manifest(ready / BASE)[0] == "1.0.0"

    git(ready, "tag", "1.0.0")
    assert release_problems(ready) == []


def test_each_thing_that_does_not_agree_is_named(ready: Path) -> None:
    git(ready, "tag", "1.0.0")
    write_and_commit(ready)
    assert release_problems(ready) == ["1.0.0 is the tag of another commit: write a new version"]

    (ready / "CHANGELOG.md").write_text(RELEASED.replace("1.0.0", "1.1.0"))
    assert release_problems(ready) == [
        "the manifests are stale: run nox -s manifest",
        "tests/updates/golden/1.1.0 is missing: run nox -s golden -- 1.1.0",
        "the working copy is dirty: commit",
    ]

    write_and_commit(ready, CHANGELOG_md=RELEASED.replace("sed]\n", "sed]\n\n- More.\n", 1))
    assert release_problems(ready)[0] == (
        "CHANGELOG.md: move what is under [Unreleased] to a heading of its own"
    )

    write_and_commit(ready, CHANGELOG_md=RELEASED.replace(" - 2026-11-24", ""))
    assert release_problems(ready)[0] == (
        "CHANGELOG.md: write the heading as ## [1.0.0] - YYYY-MM-DD"
    )

    write_and_commit(ready, CHANGELOG_md=RELEASED.replace("1.0.0", "1.0"))
    assert release_problems(ready)[0] == (
        "CHANGELOG.md: 1.0 is not a version like 1.2.3 or 1.2.3rc1"
    )
