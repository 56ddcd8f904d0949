"""Answers that cannot work are refused, with a reason, before anything is written."""

import json
import keyword
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    COPIER,
    FEATURES,
    QUESTIONS,
    TOOLS,
    UNUSUAL,
    environment,
    git,
    kind_of,
    tool,
    try_tool,
)

REFUSED = [
    ("package_name", "class", "is a word of Python's own; for example: class_worker"),
    ("package_name", "match", "is a word of Python's own"),
    ("package_name", "arq", "is the name of something that the worker needs"),
    ("package_name", "redis", "is the name of something that the worker needs"),
    ("package_name", "python_dotenv", "is the name of something that the worker needs"),
    ("package_name", "python3", "is the name of something that the worker needs"),
    ("package_name", "aux", "is the name of something that the worker needs"),
    ("package_name", "conftest", "pytest would take conftest for tests"),
    ("package_name", "test_worker", "pytest would take test_worker for tests"),
    ("package_name", "queue", "would hide a module of the standard library"),
    ("package_name", "distutils", "would hide a module of the standard library"),
    ("package_name", "my-worker!", '"my-worker!" cannot be a package name: use at most 40 of'),
    ("package_name", "MyWorker", "cannot be a package name"),
    ("package_name", "1worker", "cannot be a package name"),
    ("package_name", "worker_", "cannot be a package name"),
    ("package_name", "my__worker", "cannot be a package name"),
    ("package_name", "wörker", "cannot be a package name"),
    ("package_name", "worker\n", "cannot be a package name"),
    ("package_name", "w" * 41, "cannot be a package name"),
    ("project_name", "", "Use 1 to 40 characters"),
    ("project_name", " ", "Use 1 to 40 characters"),
    ("project_name", 'The "Worker"', "without double quotes"),
    ("project_name", "W" * 41, "Use 1 to 40 characters"),
    ("project_name", "W\nW", "in one line"),
    ("project_name", "Bell\x07", "and control characters"),
    ("project_name", "B\x1b[31ml", "and control characters"),
    ("project_name", "Class", "class is a word of Python's own"),
    ("project_name", "Redis", "redis is the name of something that the worker needs"),
    ("description", "", "Write one line"),
    ("description", "one\ntwo", "Write one line"),
    ("description", "a\x1b[31mred\x7f one", "and control characters"),
    ("author_name", "A\x85B", "and control characters"),
    ("description", 'a "good" one', "without double quotes"),
    ("author_name", " ", "Write a name"),
    ("author_name", "C:\\me", "without double quotes, backslashes and control"),
    ("stream_name", "", "Use at most 40 letters"),
    ("stream_name", "my orders", "without blanks; for example: orders"),
    ("stream_name", "orders\n", "without blanks"),
    ("stream_name", "s" * 41, "Use at most 40 letters"),
    ("stream_name", "orders:dlq", "must not end in :dlq or :parked, .* for example: orders"),
    ("stream_name", "orders:parked", "must not end in :dlq or :parked"),
    ("stream_name", "arq:queue", "belong to arq"),
    ("queue_name", "", "Use at most 60 letters"),
    ("queue_name", "my jobs", "without blanks; for example: my-worker:jobs"),
    ("queue_name", "jobs\n", "without blanks"),
    ("queue_name", "q" * 61, "Use at most 60 letters"),
    ("queue_name", "arq:job:1", "belong to arq"),
    ("queue_name", "orders", "orders is the stream"),
    ("queue_name", "jobs:dlq", "name what belongs to a queue"),
    ("queue_name", "jobs:cron:x", "name what belongs to a queue"),
    ("python_version", "3.10", "Invalid choice"),
    ("license", "GPL", "Invalid choice"),
    ("features", ["streams", "messages"], "Invalid choice"),
    ("features", ["telemetry", ""], "Invalid choice"),
]


@pytest.mark.parametrize(("question", "answer", "reason"), REFUSED)
def test_a_bad_answer_is_refused_with_the_reason(
    copier: CopierFixture, tmp_path: Path, question: str, answer: str | list[str], reason: str
) -> None:
    project = tmp_path / "project"

    with pytest.raises(ValueError, match=reason):
        copier.copy(project, **{question: answer})

    assert not project.exists()


TITLES = {
    "Order Worker": "order_worker",
    "Zoë's Wörker & Söhne: 100 % ok!": "zoe_s_woerker_soehne_100_ok",
    "Zoe\u0308 Wo\u0308rker": "zoe_woerker",
    "Łódź, Ñandú": "lodz_nandu",
    "GROẞ": "gross",
    "İstanbul": "istanbul",
    "Ö" * 40: "oe" * 20,
    "2nd worker": "worker",
    "42": "worker",
    "注文ワーカー": "worker",
    "Заказы v2": "worker",
    "عامل الطلبات": "worker",
    "🚀": "worker",
    "🚀 Rocket": "rocket",
}


@pytest.mark.parametrize("title", TITLES)
def test_a_title_in_any_script_has_a_package(
    copier: CopierFixture, tmp_path: Path, title: str
) -> None:
    project = copier.copy(tmp_path / "project", project_name=title, features=[]).path

    assert [path.name for path in (project / "src").iterdir()] == [TITLES[title]]
    assert (project / "README.md").read_text("utf-8").startswith(f"# {title}\n")
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert metadata["name"] == TITLES[title].replace("_", "-")


@pytest.mark.parametrize("answer", ["my-worker!", "class"])
def test_the_command_line_names_the_reason_last_and_writes_nothing(
    copier_template: Path, tmp_path: Path, answer: str
) -> None:
    project = tmp_path / "project"

    copy = ("copier", "copy", "--defaults", "-d", f"package_name={answer}")
    result = try_tool(*copy, copier_template, project)

    assert result.returncode == 1
    last = result.stdout.splitlines()[-1]
    assert answer in last
    assert "for example: " in last
    assert not project.exists()


@pytest.mark.parametrize("name", ["build", "dist"])
def test_git_ignores_no_package_that_is_named_like_an_output(
    copier: CopierFixture, tmp_path: Path, name: str
) -> None:
    project = copier.copy(tmp_path / "project", package_name=name).path
    git(tmp_path, "init", "--quiet", str(project))
    git(project, "add", "--all")

    listed = git(project, "ls-files", f"src/{name}").splitlines()

    assert f"src/{name}/worker.py" in listed
    assert f"src/{name}/workerbase/base.py" in listed


def test_every_question_has_help_and_a_default_and_is_checked() -> None:
    for name, question in QUESTIONS.items():
        assert question["help"].strip(), name
        assert "default" in question, name
        assert kind_of(name) != "free" or question["validator"].strip(), name


def test_few_questions_are_asked() -> None:
    assert len(QUESTIONS) <= 10


def test_each_free_question_has_an_unusual_answer_to_try() -> None:
    assert set(UNUSUAL) == {name for name in QUESTIONS if kind_of(name) == "free"}


def refused(name: str) -> set[str]:
    """Return one of the lists of names in the validator of package_name."""
    found = re.search(rf"set {name} = '([^']*)'", COPIER["package_name"]["validator"])
    assert found is not None
    return set(found[1].split())


def usable(names: set[str]) -> set[str]:
    """Return those that the validator's pattern does not refuse already."""
    return {name for name in names if re.fullmatch(r"[a-z](_?[a-z0-9])*", name)}


def pythons() -> list[tuple[str, str]]:
    """Return every Python at hand that the template supports, and newer ones, too."""
    listed = json.loads(
        subprocess.check_output(
            [TOOLS / "uv", "python", "list", "--only-installed", "--output-format", "json"],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
    )
    found = {
        python["version"]: python["path"]
        for python in listed
        if python["implementation"] == "cpython" and python["version_parts"]["minor"] >= 11
    }
    return sorted(found.items())


def test_the_modules_of_every_python_at_hand_are_refused() -> None:
    found = pythons()
    assert found, "uv finds no Python"
    for version, path in found:
        code = "import json, sys; print(json.dumps(sorted(sys.stdlib_module_names)))"
        modules = set(json.loads(subprocess.check_output([path, "-c", code], env=environment())))
        assert usable(modules) <= refused("stdlib") | refused("keywords"), version


def test_the_words_of_python_are_refused() -> None:
    words = {word.lower() for word in (*keyword.kwlist, *keyword.softkwlist)}
    assert usable(words) <= refused("keywords")


def test_what_the_worker_installs_is_refused(copier: CopierFixture, tmp_path: Path) -> None:
    answers = {"package_name": "the_project_itself", "features": [*FEATURES]}
    project = copier.copy(tmp_path / "project", **answers).path
    tool("uv", "sync", "--quiet", cwd=project)
    python = project / ".venv" / "bin" / "python"
    code = (
        "import json; from importlib import metadata as m;"
        "print(json.dumps([*m.packages_distributions(),"
        "*(d.metadata['Name'] for d in m.distributions())]))"
    )
    installed = set(json.loads(subprocess.check_output([python, "-c", code], env=environment())))
    # The command of package my_worker is my-worker, so py.test is not in its way.
    programs = {path.name for path in python.parent.iterdir() if "." not in path.name}
    names = {re.sub(r"[-.]+", "_", name).lower() for name in installed | programs}

    lists = refused("taken") | refused("stdlib") | refused("keywords")
    assert usable(names) - lists == {"the_project_itself"}
    assert {"arq", "redis", "pydantic_core", "prometheus_client", "pytest", "yaml"} <= names
