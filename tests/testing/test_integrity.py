"""Which files of the base were edited, and what they were: in a repository as small as it gets.

`tests/updates` looks at the same in rendered projects.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from workerbase.testing import integrity
from workerbase.testing.commands import base as command

EDITED = "number = 1\n"


class Repository:
    """A project with a base of three files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "src" / "workerbase"
        (self.base / "part").mkdir(parents=True)
        (self.base / "edited.py").write_text(EDITED)
        (self.base / "part" / "missing.py").write_text("gone = True\n")
        (self.base / "same.py").write_text("same = True\n")
        (self.base / integrity.MANIFEST).write_text(integrity.manifest("1.2.3", self.base))
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "step")

    def drift(self) -> None:
        (self.base / "edited.py").write_text(EDITED.replace("1", "2"))
        (self.base / "part" / "missing.py").unlink()
        (self.base / "added.py").write_text("")
        self.commit()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_base_as_it_was_made_has_not_drifted(repository: Repository) -> None:
    assert integrity.read_manifest(repository.base)[0] == "1.2.3"
    assert sorted(integrity.base_files(repository.base)) == [
        "edited.py",
        "part/missing.py",
        "same.py",
    ]
    assert integrity.find_drift(repository.base) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.rstrip(b"\n"),
        lambda data: data + b"\n\n",
    ],
)
def test_line_ends_and_caches_do_not_count_as_edits(
    repository: Repository, change: Callable[[bytes], bytes]
) -> None:
    for path in repository.base.rglob("*.py"):
        path.write_bytes(change(path.read_bytes()))
    (repository.base / "__pycache__").mkdir()
    (repository.base / "__pycache__" / "same.pyc").write_bytes(b"")
    (repository.base / ".hidden").write_text("")
    assert integrity.find_drift(repository.base) == []


def test_a_feature_that_was_not_chosen_is_not_missed(repository: Repository) -> None:
    feature = repository.base / "feature"
    feature.mkdir()
    (feature / "engine.py").write_text("runs = True\n")
    (feature / integrity.MANIFEST).write_text(integrity.manifest("1.2.3", feature))
    # It lists no file of the feature.
    assert (
        integrity.manifest("1.2.3", repository.base)
        == (repository.base / integrity.MANIFEST).read_text()
    )
    assert integrity.find_drift(repository.base) == []
    (feature / "engine.py").unlink()
    assert [file.name for file in integrity.find_drift(repository.base)] == ["feature/engine.py"]
    shutil.rmtree(feature)
    assert integrity.find_drift(repository.base) == []


def test_each_kind_of_edit_is_named_with_its_remedy(repository: Repository) -> None:
    repository.drift()
    found = {file.name: (file.what, file.remedy) for file in integrity.find_drift(repository.base)}
    owned = "The base belongs to the template, and `copier update` overwrites edits: "
    instead = "undo the edit with `git checkout`, and extend it in your own modules."
    assert found == {
        "added.py": ("added", f"{owned}move the file to a package of your own."),
        "edited.py": ("edited", f"{owned}{instead}"),
        "part/missing.py": ("missing", f"{owned}bring it back with `git restore`."),
    }
    edited = integrity.find_drift(repository.base)[1]
    assert str(edited) == f"workerbase/edited.py is edited. {owned}{instead}"


def test_the_original_is_found_in_gits_history(repository: Repository) -> None:
    repository.drift()
    assert integrity.original("edited.py", repository.base) == EDITED
    assert "-number = 1\n+number = 2\n" in integrity.diff("edited.py", repository.base)
    assert "\n-gone = True\n" in integrity.diff("part/missing.py", repository.base)


def test_without_history_the_command_that_renders_the_original_is_shown(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.drift()
    (repository.folder / ".copier-answers.yml").write_text(
        "_commit: 1.2.3\n_src_path: 'gh:org/arq-worker-template'\n"
    )
    monkeypatch.setenv("PATH", "")  # no git
    assert integrity.original("edited.py", repository.base) is None
    shown = integrity.diff("edited.py", repository.base)
    assert "--vcs-ref 1.2.3 gh:org/arq-worker-template /tmp/original" in shown
    assert integrity.answers(repository.base)[0] == repository.folder


# --- the command


def status(monkeypatch: pytest.MonkeyPatch, base: Path) -> tuple[int, str]:
    """Run `base status` as if it stood in this base."""
    for function in (
        integrity.answers,
        integrity.read_manifest,
        integrity.find_drift,
        integrity.base_files,
    ):
        monkeypatch.setattr(function, "__defaults__", (base,))
    for function in (integrity.diff, integrity.original):
        monkeypatch.setattr(function, "__defaults__", (base,))
    done = CliRunner().invoke(command, ["status"])
    return done.exit_code, done.output


def test_status_shows_the_versions_and_each_edit(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    copier = tools / "copier"
    copier.write_text('#!/bin/sh\necho \'{"latest_version": "2.0.0"}\'\n')
    copier.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    code, said = status(monkeypatch, repository.base)
    assert code == 0
    assert "base          1.2.3\nupdated to    unknown: there is no .copier-answers.yml\n" in said
    assert "newest known  unknown" in said
    assert said.endswith("no file of the base was edited\n")

    (repository.folder / ".copier-answers.yml").write_text("_commit: 1.2.3\n")
    repository.drift()
    code, said = status(monkeypatch, repository.base)
    assert code == 1
    assert "updated to    1.2.3\nnewest known  2.0.0\n" in said
    assert "workerbase/added.py is added." in said
    assert "+number = 2\n" in said
    assert "--- template/added.py" not in said

    copier.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(tools))
    assert integrity.newest(repository.folder) is None


def test_as_a_script_it_fails_for_an_edit_of_its_own_base(tmp_path: Path) -> None:
    """That is how pre-commit runs it, without an environment."""
    copied = tmp_path / "workerbase" / "testing" / "integrity.py"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(Path(integrity.__file__).read_bytes())
    base = copied.parents[1]
    (base / integrity.MANIFEST).write_text(integrity.manifest("1", base))
    assert subprocess.run([sys.executable, copied], check=False).returncode == 0
    copied.write_text(copied.read_text() + "\n# edited\n")
    done = subprocess.run([sys.executable, copied], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "testing/integrity.py is edited" in done.stderr
