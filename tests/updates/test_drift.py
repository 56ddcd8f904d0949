"""Edits of the base are seen, by the suite, by pre-commit and by `base status`."""

import sys
from pathlib import Path

import pytest
import quick_python
import yaml
from updates.conftest import Done, Make, Project, run
from updates.releases import BASE, FEATURES, HEAD, NEXT, ROOT, changelog_version, integrity


@pytest.fixture
def project(make: Make) -> Project:
    return make(HEAD)


def found(project: Project) -> list[str]:
    return [str(file) for file in integrity.find_drift(project.base)]


def status(project: Project, **environment: str) -> Done:
    return project.command("base", "status", **environment)


def test_the_manifests_are_fresh() -> None:
    version = changelog_version((ROOT / "CHANGELOG.md").read_text())
    parts = integrity.parts(ROOT / BASE)

    assert [part.relative_to(ROOT / BASE).as_posix() for part in parts] == [".", *FEATURES]
    for part in parts:
        written = (part / integrity.MANIFEST).read_text()
        assert written == integrity.manifest(version, part), "run nox -s manifest"


def test_a_fresh_project_has_not_drifted(project: Project) -> None:
    assert found(project) == []
    assert len(integrity.read_manifest(project.base)[1]) > 30


def test_each_edit_is_named_with_what_to_do_instead(project: Project) -> None:
    codec = project.base / "broker" / "codec.py"
    codec.write_text(codec.read_text() + "x = 1\n")
    (project.base / "broker" / "lua" / "requeue.lua").write_text("return 1\n")
    (project.base / "broker" / "keys.py").unlink()
    (project.base / "delivery" / "ours.py").write_text("")

    owned = "The base belongs to the template, and `copier update` overwrites edits:"
    instead = f"{owned} undo the edit with `git checkout`, and extend it in your own modules."
    assert found(project) == [
        f"workerbase/broker/codec.py is edited. {instead}",
        f"workerbase/broker/keys.py is missing. {owned} bring it back with `git restore`.",
        f"workerbase/broker/lua/requeue.lua is edited. {instead}",
        f"workerbase/delivery/ours.py is added. {owned} move the file to a package of your own.",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.rstrip(b"\n"),
        lambda data: data + b"\n\n",
    ],
    ids=["CRLF", "no final newline", "empty lines at the end"],
)
def test_line_endings_do_not_count_as_an_edit(project: Project, change) -> None:
    for file in [*project.base.rglob("*.py"), *project.base.rglob("*.lua")]:
        file.write_bytes(change(file.read_bytes()))

    assert found(project) == []


@pytest.fixture
def bare(make: Make) -> Project:
    """A project without features."""
    return make(HEAD, "features=[]")


def test_a_feature_that_a_project_does_not_have_is_not_missed(bare: Project) -> None:
    assert integrity.parts(bare.base) == [bare.base]
    listed = integrity.read_manifest(bare.base)[1]
    assert not [name for name in listed if name.startswith(FEATURES)]
    assert found(bare) == []


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_a_project_has_is_watched(make: Make, feature: str) -> None:
    everything = "features=[streams, devtools, console, leased_jobs, telemetry]"
    project = make(HEAD, everything)
    part = project.base / feature
    assert found(project) == []

    (part / "__init__.py").write_text("x = 1\n")
    (part / "ours.py").touch()
    assert [(file.name, file.what) for file in integrity.find_drift(project.base)] == [
        (f"{feature}/__init__.py", "edited"),
        (f"{feature}/ours.py", "added"),
    ]

    (part / "__init__.py").unlink()
    assert (f"{feature}/__init__.py", "missing") in [
        (file.name, file.what) for file in integrity.find_drift(project.base)
    ]

    (part / "MANIFEST").unlink()
    assert {file.what for file in integrity.find_drift(project.base)} == {"added"}


def test_caches_do_not_count_as_an_edit(project: Project) -> None:
    (project.base / "__pycache__").mkdir()
    (project.base / "__pycache__" / "codec.cpython-311.pyc").write_bytes(b"")
    (project.base / ".DS_Store").write_bytes(b"")

    assert found(project) == []


def test_the_formatter_of_the_project_leaves_the_base_alone(project: Project) -> None:
    pyproject = project.path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("line-length = 100", "line-length = 60"))

    # pre-commit's hook names each file, and forces ruff to heed its exclusions.
    for command in (("check", "--fix"), ("format",)):
        run(project.path, "ruff", *command, "--force-exclude", "--no-cache", ".", str(project.base))

    assert "M" in project.git("status", "--porcelain", "src/my_worker/handlers.py")
    assert found(project) == []


def hook(project: Project) -> Done:
    """Run the entry of the local hook, with this Python instead of the one that uv finds."""
    config = yaml.safe_load((project.path / ".pre-commit-config.yaml").read_text())
    (local,) = [repo for repo in config["repos"] if repo["repo"] == "local"]
    (base,) = [one for one in local["hooks"] if "integrity.py" in one["entry"]]
    prefix = "uv run --no-project python "
    assert base["entry"].startswith(prefix)
    script = base["entry"].removeprefix(prefix)
    assert base["always_run"] is True
    return quick_python.run(
        [sys.executable, *script.split()],
        cwd=project.path, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_hook_of_pre_commit_needs_no_environment_and_names_the_edit(project: Project) -> None:
    assert hook(project).returncode == 0

    with (project.base / "engine" / "retry_policy.py").open("a") as file:
        file.write("x = 1\n")
    done = hook(project)

    assert done.returncode == 1
    assert "workerbase/engine/retry_policy.py is edited." in done.stderr
    assert "extend it in your own modules." in done.stderr


def test_status_shows_versions_when_all_is_well(project: Project) -> None:
    done = status(project)

    assert done.returncode == 0, done.stderr
    version = changelog_version((ROOT / "CHANGELOG.md").read_text())
    assert f"base          {version}\n" in done.stdout
    assert f"updated to    {HEAD}\n" in done.stdout
    assert "no file of the base was edited" in done.stdout


def test_status_asks_copier_for_the_newest_version(project: Project, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "copier").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m copier "$@"\n')
    (tools / "copier").chmod(0o755)

    done = status(project, PATH=f"{tools}:/usr/bin:/bin")
    assert f"newest known  {NEXT.removeprefix('v')}\n" in done.stdout

    (tools / "copier").unlink()
    done = status(project, PATH="/usr/bin:/bin")
    assert "newest known  unknown: `uvx copier check-update` shows why\n" in done.stdout
    assert done.returncode == 0


def test_status_shows_what_was_edited_since_the_original_in_gits_history(project: Project) -> None:
    file = project.base / "streams" / "breaker.py"
    original = file.read_text()
    file.write_text(original + "x = 1\n")
    project.commit()
    (project.base / "devtools" / "demo.py").unlink()
    project.commit()

    done = status(project)

    assert done.returncode == 1
    assert "--- template/streams/breaker.py\n+++ project/streams/breaker.py\n" in done.stdout
    assert "\n+x = 1\n" in done.stdout
    assert "\n-async def run_demo" in done.stdout
    assert integrity.original("streams/breaker.py", project.base) == original


def test_the_original_is_found_after_a_move_into_a_monorepo(project: Project) -> None:
    file = project.base / "streams" / "breaker.py"
    original = file.read_text()
    file.write_text(original + "x = 1\n")
    project.commit()
    (project.path / "services").mkdir()
    project.git("mv", "src", "services/src")
    project.commit()

    moved = project.path / "services" / "src" / "my_worker" / "workerbase"

    assert integrity.original("streams/breaker.py", moved) == original


def test_without_history_status_says_how_to_get_the_original(
    project: Project, tmp_path: Path
) -> None:
    file = project.base / "streams" / "breaker.py"
    original = file.read_text()
    file.write_text(original + "x = 1\n")
    project.commit()
    project.git("checkout", "--quiet", "--orphan", "fresh")
    project.commit()
    project.git("branch", "--quiet", "--delete", "--force", "main")

    done = status(project)

    assert done.returncode == 1
    (advice,) = [line for line in done.stdout.splitlines() if "uvx copier copy" in line]
    *command, target = advice.split()[1:]
    assert target == "/tmp/original"
    made = run(project.path, *command, str(tmp_path / "original"))
    assert made.returncode == 0, made.stderr
    found = tmp_path / "original" / "src" / "my_worker" / "workerbase" / "streams" / "breaker.py"
    assert found.read_text() == original
