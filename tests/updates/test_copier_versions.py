"""Updates work with the oldest Copier that copier.yml allows and with the one that is here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import quick_copier
import yaml
from thorough import THOROUGH
from updates.conftest import MARKERS, Project
from updates.releases import HEAD, NEXT, ROOT, git_environment

COPIER = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
OLDEST = str(COPIER["_min_copier_version"])
UV = Path(sys.executable).with_name("uv")


# With the newest all other tests are made.
@pytest.fixture(scope="module", params=["oldest", "newest"] if THOROUGH else ["oldest"])
def copier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; the oldest one is installed into an environment of its own."""
    if request.param == "newest":
        return Path(sys.executable).with_name("copier")
    folder = tmp_path_factory.mktemp("copier") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    install = ("pip", "install", "--quiet", "--python", python, f"copier=={OLDEST}")
    subprocess.run([UV, *install], check=True)
    found = subprocess.check_output([folder / "bin" / "copier", "--version"], text=True)
    assert found.split() == ["copier", OLDEST]
    return folder / "bin" / "copier"


def run(copier: Path, folder: Path, *arguments: str | Path) -> tuple[int, str]:
    """Run Copier; return its exit code and what it says, to which no warning belongs."""
    done = subprocess.run(
        [copier.with_name("python"), quick_copier.COMMAND, *arguments],
        cwd=folder,
        env=git_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert "Warning" not in done.stdout
    return done.returncode, done.stdout


@pytest.fixture
def project(copier: Path, history: Path, tmp_path: Path) -> Project:
    path = tmp_path / "project"
    copy = ("copy", "--defaults", "--vcs-ref", HEAD, history, path)
    code, output = run(copier, tmp_path, *copy)
    assert code == 0, output
    made = Project(path)
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit()
    return made


OURS = "# ours\n"
EDITED = ("README.md", "src/my_worker/handlers.py", "src/my_worker/tasks.py", "tests/conftest.py")


def edit(project: Project) -> dict[str, str]:
    """Change files of the project's own where the next release changes them; return them."""
    for name in EDITED:
        file = project.path / name
        file.write_text(file.read_text("utf-8") + OURS, "utf-8")
    project.commit()
    return {name: (project.path / name).read_text("utf-8") for name in EDITED}


def test_edits_of_own_files_and_an_update_of_the_rest_do_not_conflict(
    copier: Path, project: Project
) -> None:
    edited = edit(project)

    code, output = run(copier, project.path, "update", "--defaults")

    assert code == 0, output
    assert {name: (project.path / name).read_text("utf-8") for name in EDITED} == edited
    project.git("add", "--intent-to-add", "--all")
    changed = project.git("diff", "--name-only", "HEAD").splitlines()
    assert "src/my_worker/workerbase/base.py" in changed
    assert not [n for n in changed if MARKERS.search((project.path / n).read_text("utf-8"))]
    assert f"_commit: {NEXT}" in (project.path / ".copier-answers.yml").read_text("utf-8")


@pytest.mark.parametrize(
    ("command", "answer", "reason"),
    [
        ("update", "package_name=other", "package is my_worker, and an update cannot rename it"),
        ("update", "project_name=Other", ""),
        ("recopy", "package_name=other", "package is my_worker, and an update cannot rename it"),
        ("update", "stream_name=letters", "stream is orders, and an update cannot rename it"),
    ],
)
def test_names_that_own_files_have_are_not_renamed_by_an_update(
    copier: Path, project: Project, command: str, answer: str, reason: str
) -> None:
    options = ("--overwrite",) if command == "recopy" else ()
    code, output = run(copier, project.path, command, "--defaults", *options, "-d", answer)

    if reason:
        assert code == 1
        assert reason in output.splitlines()[-1]
        assert project.git("status", "--porcelain") == ""
    else:
        assert code == 0, output
        assert project.source.is_dir()


def test_a_stream_may_be_named_when_streams_are_added(
    copier: Path, history: Path, tmp_path: Path
) -> None:
    path = tmp_path / "project"
    copy = ("copy", "--quiet", "--defaults", "-d", "features=[]", "--vcs-ref", HEAD, history, path)
    assert run(copier, tmp_path, *copy)[0] == 0
    made = Project(path)
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit()

    answers = ("-d", "features=[streams]", "-d", "stream_name=letters")
    code, output = run(copier, path, "update", "--defaults", *answers)

    assert code == 0, output
    assert "stream_name: letters" in (path / ".copier-answers.yml").read_text("utf-8")


def test_recopying_leaves_own_files_alone_and_restores_the_rest(
    copier: Path, project: Project
) -> None:
    edited = edit(project)
    base = project.base / "base.py"
    original = base.read_text("utf-8")
    for file in (base, project.path / "tests" / "test_base.py"):
        file.write_text("", "utf-8")
    project.commit()

    recopy = ("recopy", "--defaults", "--overwrite", "--vcs-ref", HEAD)
    code, output = run(copier, project.path, *recopy)

    assert code == 0, output
    assert {name: (project.path / name).read_text("utf-8") for name in EDITED} == edited
    assert base.read_text("utf-8") == original
    assert (project.path / "tests" / "test_base.py").read_text("utf-8") != ""


def test_what_updates_leave_alone_is_what_is_skipped_where_it_exists() -> None:
    conditional = "{% if _copier_operation == 'update' %}(.*){% endif %}"
    left_alone = [found[1] for line in COPIER["_exclude"] if (found := re.match(conditional, line))]
    assert left_alone == COPIER["_skip_if_exists"]
