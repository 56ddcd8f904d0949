"""What the tests of rendering share: the questions, covers of their answers, commands."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
"""Where the programs of the test environment are, on the PATH or not."""

Answer: TypeAlias = str | bool
Answers: TypeAlias = dict[str, Answer]
Tree: TypeAlias = dict[str, bytes]

COPIER: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {
    name: question
    for name, question in COPIER.items()
    if not name.startswith("_") and question.get("when") is not False
}

UNUSUAL = {
    "project_name": "Zoë's <Wörker> & 'Söhne' #9: 100 % {ok}!",
    "package_name": "billing_and_invoicing_of_european_orders",
    "description": "It's a #1 wörker: {quick} & <safe>, 100 % `sure` - " + "really " * 20 + "so",
    "author_name": "Zoë O'Brien & <Söhne>: #1 {GmbH}",
    "stream_name": "shop:eu-west-1:billing.order_events:v2-x",
}
"""For each question with a free answer, one that is as long and as strange as is allowed."""


def values_of_each_question() -> dict[str, list[Answer | None]]:
    """Return the values worth a try, the default first; ``None`` is a free question's default."""
    values: dict[str, list[Answer | None]] = {}
    for name, question in QUESTIONS.items():
        if question["type"] == "bool":
            values[name] = [False, True]
            continue
        if "choices" not in question:
            values[name] = [None, UNUSUAL[name]]
            continue
        choices = question["choices"]
        listed = list(choices.values() if isinstance(choices, dict) else choices)
        values[name] = sorted(listed, key=lambda value: value != question["default"])
    return values


def only_given(row: Mapping[str, Answer | None]) -> Answers:
    """Leave the defaults out."""
    return {name: value for name, value in row.items() if value is not None}


def pairwise() -> Iterator[Answers]:
    """Yield few answers in which each pair of values occurs; the defaults come first."""
    # With the longest lists in front, the greedy choice needs fewer rows.
    values = dict(sorted(values_of_each_question().items(), key=lambda item: -len(item[1])))
    rows = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    pairs = [set(itertools.combinations(row.items(), 2)) for row in rows]
    missing = set().union(*pairs)
    while missing:
        best = max(range(len(rows)), key=lambda index: len(missing & pairs[index]))
        missing -= pairs[best]
        yield only_given(rows[best])


def all_choices() -> Iterator[Answers]:
    """Yield every combination of the choices, once with default and once with strange texts.

    The combinations of options take turns, so that each meets both kinds of texts.
    """
    values = values_of_each_question()
    options = list(_product(values, "bool"))
    for number, chosen in enumerate(_product(values, "choices")):
        yield chosen | options[number % len(options)]
        yield chosen | options[(number + 1) % len(options)] | UNUSUAL


def _product(values: Mapping[str, list[Answer | None]], kind: str) -> Iterator[Answers]:
    names = [name for name in values if kind_of(name) == kind]
    for row in itertools.product(*(values[name] for name in names)):
        yield only_given(dict(zip(names, row, strict=True)))


def kind_of(name: str) -> str:
    """Tell a question with choices, a yes or no (bool), and one whose answer is free."""
    question = QUESTIONS[name]
    if "choices" in question:
        return "choices"
    return "bool" if question["type"] == "bool" else "free"


def describe(answers: Answers) -> str:
    """Name a row in the output of pytest."""
    shown = (str(v) if kind_of(n) == "choices" else n for n, v in answers.items() if v is not False)
    return "-".join(shown) or "defaults"


def files(project: Path) -> Tree:
    """Return what was rendered, by path."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def environment() -> dict[str, str]:
    """Return a stranger's environment: no virtual environment or settings of ours."""
    ours = ("COVERAGE_", "COV_", "PYTEST_", "WORKER_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def tool(name: str, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """Run a program of the test environment; return its output.

    Raises:
        AssertionError: it failed; the message is its output.
    """
    result = try_tool(name, *arguments, cwd=cwd)
    assert result.returncode == 0, f"{name} failed:\n{result.stdout}"
    return result.stdout


def try_tool(
    name: str, *arguments: str | Path, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program of the test environment, which may fail."""
    return subprocess.run(
        [TOOLS / name, *arguments],
        cwd=cwd,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as somebody."""
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    return subprocess.check_output(
        ["git", *identity, *arguments], cwd=folder, env=environment(), text=True
    )
