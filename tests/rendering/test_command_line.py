"""What a stranger types: the real ``copier`` command, without --trust."""

import os
import pty
import re
import select
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    FEATURES,
    QUESTIONS,
    ROOT,
    TOOLS,
    environment,
    files,
    git,
    tool,
    try_tool,
)


@pytest.fixture
def clone(copier_template: Path, tmp_path: Path) -> Path:
    """The template as a repository, without tags."""
    folder = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", "--no-tags", str(copier_template), str(folder))
    return folder


def render(source: Path, project: Path, *options: str) -> str:
    return tool("copier", "copy", "--defaults", *options, source, project)


def version(project: Path) -> str:
    answers = (project / ".copier-answers.yml").read_text("utf-8")
    return str(yaml.safe_load(answers)["_commit"])


def test_it_renders_from_a_clone_without_tags(clone: Path, tmp_path: Path) -> None:
    said = render(clone, tmp_path / "project")

    assert "No git tags found in template; using HEAD as ref" in said
    assert (tmp_path / "project" / "src" / "my_worker" / "worker.py").exists()


def test_it_renders_the_newest_release_from_a_clone_with_tags(clone: Path, tmp_path: Path) -> None:
    git(clone, "tag", "v1.0.0")
    (clone / "template" / "README.md.jinja").write_text("not released\n")
    git(clone, "commit", "--quiet", "--all", "--message", "Not released")

    render(clone, tmp_path / "project")

    assert version(tmp_path / "project") == "v1.0.0"
    assert "not released" not in (tmp_path / "project" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("folder", ["C:\\Users\\Zoë W\\workers", "Zoë's 'wörkers' $HOME"])
def test_it_renders_into_a_strange_path(clone: Path, tmp_path: Path, folder: str) -> None:
    render(clone, tmp_path / "plain")

    said = render(clone, tmp_path / folder)

    assert files(tmp_path / folder) == files(tmp_path / "plain")
    assert f"cd {shlex.quote(str(tmp_path / folder))}\n" in said


@pytest.mark.parametrize("tagged", [True, False])
def test_a_dirty_template_is_rendered_only_where_that_is_wanted(
    clone: Path, tmp_path: Path, tagged: bool
) -> None:
    if tagged:
        git(clone, "tag", "v1.0.0")
    (clone / "template" / "README.md.jinja").write_text("in the making\n")

    render(clone, tmp_path / "release")
    said = render(clone, tmp_path / "head", "--vcs-ref=HEAD")

    released = (tmp_path / "release" / "README.md").read_text("utf-8")
    assert (released == "in the making\n") is not tagged
    assert (tmp_path / "head" / "README.md").read_text("utf-8") == "in the making\n"
    assert "Dirty template changes included automatically" in said


def test_the_result_is_clean_for_git_and_says_what_to_do_next(clone: Path, tmp_path: Path) -> None:
    project = tmp_path / "my project"

    said = render(clone, project)
    git(tmp_path, "init", "--quiet", str(project))
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Start")

    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert git(project, "diff", "--check", "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "HEAD") == ""
    assert set(git(project, "ls-files").splitlines()) == set(files(project))
    assert f"cd '{project}'\n" in said
    assert "uv run my-worker demo" in said


def test_without_streams_and_demo_it_says_what_to_do_instead(clone: Path, tmp_path: Path) -> None:
    said = render(clone, tmp_path / "project", "-d", "features=[]")

    assert "my-worker demo" not in said
    assert "uv run pytest" in said
    assert "add a task: src/my_worker/tasks.py" in said


def test_files_of_an_existing_project_are_not_overwritten_unasked(
    clone: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("mine\n")
    (project / "app.py").write_text("mine, too\n")

    refused = try_tool("copier", "copy", "--defaults", clone, project)

    assert refused.returncode != 0
    assert "Consider using `--overwrite`" in refused.stdout
    assert (project / "pyproject.toml").read_text() == "mine\n"

    render(clone, project, "--skip=pyproject.toml", "--overwrite")

    assert (project / "pyproject.toml").read_text() == "mine\n"
    assert (project / "app.py").read_text() == "mine, too\n"
    assert (project / "src" / "my_worker" / "workerbase" / "base.py").exists()


def test_rendering_again_changes_nothing(clone: Path, tmp_path: Path) -> None:
    render(clone, tmp_path / "project")
    before = files(tmp_path / "project")

    render(clone, tmp_path / "project", "--overwrite")

    assert files(tmp_path / "project") == before


def test_windows_can_have_every_file(copier: CopierFixture, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "project", features=[*FEATURES]).path
    rendered = [*files(project)]
    tracked = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()

    for path in (*rendered, *tracked):
        # Jinja's filters (`|`) and quotes in names of the template would not survive there.
        assert not re.search(r'[<>:"|?*\\]', path), path
        for part in Path(path).parts:
            assert not part.endswith((".", " ")), path
            assert part.partition(".")[0].lower() not in {"aux", "con", "nul", "prn"}, path
    assert len({path.lower() for path in tracked}) == len(tracked)
    # Windows' limit is 260 characters, home folder and project's name included.
    assert max(map(len, rendered)) < 100


def test_pressing_enter_answers_every_question(clone: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    keyboard, screen = pty.openpty()
    with subprocess.Popen(
        [TOOLS / "copier", "copy", clone, project],
        env=environment() | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        stdin=screen,
        stdout=screen,
        stderr=screen,
    ) as process:
        os.close(screen)
        shown = b""
        deadline = time.monotonic() + 60
        for question in QUESTIONS.values():
            wanted = str(question["help"]).encode()
            while wanted not in shown:
                assert time.monotonic() < deadline, shown.decode(errors="replace")
                if select.select([keyboard], [], [], 0.1)[0]:
                    shown += os.read(keyboard, 65536)
            shown = shown.partition(wanted)[2]
            os.write(keyboard, b"\r")
        while select.select([keyboard], [], [], 60)[0]:
            try:
                shown += os.read(keyboard, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait(60) == 0, shown.decode(errors="replace")
    os.close(keyboard)

    render(clone, tmp_path / "defaults")
    assert files(project) == files(tmp_path / "defaults")
