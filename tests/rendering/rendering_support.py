"""What the tests of rendering share: the questions, covers of their answers, commands."""

import compileall
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import quick_copier
import quick_python
import yaml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
"""Where the programs of the test environment are, on the PATH or not."""

Answer: TypeAlias = str | bool | list[str]
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
    "queue_name": "Shop:eu-west-1:billing_and_invoicing.of-all-orders:jobs-v2-x",
}
"""For each question with a free answer, one that is as long and as strange as is allowed."""


FEATURES: tuple[str, ...] = tuple(QUESTIONS["features"]["choices"].values())
DEFAULT_FEATURES: tuple[str, ...] = tuple(QUESTIONS["features"]["default"])

FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT_FEATURES,
    "none": (),
    "all": FEATURES,
    **{feature: (feature,) for feature in FEATURES},
}
"""What runs its whole suite by default: each feature alone, and what most projects have."""

KUBERNETES_ANSWERS: dict[str, Answers] = {
    "plain": {"features": ["streams", "devtools", "kubernetes"]},
    "strange": {"features": ["streams", "leased_jobs", "telemetry", "kubernetes"], **UNUSUAL},
    "jobs": {"features": ["kubernetes"]},
    "leased": {"features": ["leased_jobs", "kubernetes"]},
}

Row: TypeAlias = dict[str, str | bool | None]
"""A value for each question, with a yes or no for each feature; ``None`` is the default of a
question with a free answer."""


def feature_sets() -> Iterator[tuple[str, ...]]:
    """Yield every combination of features."""
    for chosen in itertools.product((True, False), repeat=len(FEATURES)):
        yield tuple(itertools.compress(FEATURES, chosen))


def values_of_each_question() -> dict[str, list[str | bool | None]]:
    """Return the values worth a try, the default first; each feature counts as a question."""
    values: dict[str, list[str | bool | None]] = {}
    for name, question in QUESTIONS.items():
        if kind_of(name) == "features":
            for feature in FEATURES:
                values[feature] = sorted([True, False], reverse=feature in DEFAULT_FEATURES)
        elif kind_of(name) == "free":
            values[name] = [None, UNUSUAL[name]]
        else:
            choices = question["choices"]
            listed = list(choices.values() if isinstance(choices, dict) else choices)
            values[name] = sorted(listed, key=lambda value: value != question["default"])
    return values


def answers_of(row: Mapping[str, str | bool | None]) -> Answers:
    """Return the answers of a row: the features in one list, without the default texts."""
    answers: Answers = {"features": [feature for feature in FEATURES if row.get(feature)]}
    answers |= {n: v for n, v in row.items() if n not in FEATURES and v is not None}
    return answers


def pairwise() -> Iterator[Row]:
    """Yield few rows in which each pair of values occurs; the defaults come first.

    `stream_name` is asked only where streams are chosen.
    """
    # With the longest lists in front, the greedy choice needs fewer rows.
    values = dict(sorted(values_of_each_question().items(), key=lambda item: -len(item[1])))
    missing = {
        frozenset(pair)
        for one, other in itertools.combinations(values.items(), 2)
        for pair in itertools.product(*([(name, v) for v in vs] for name, vs in (one, other)))
        if _can_be(dict(pair))
    }
    row: Row = {name: listed[0] for name, listed in values.items()}
    while True:
        yield row
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
        if not missing:
            return
        row = dict(min(missing, key=lambda pair: sorted(map(repr, pair))))
        for name, listed in values.items():
            if name in row:
                continue
            possible = [value for value in listed if _can_be(row | {name: value})]
            pairs = ([frozenset({(name, v), item}) for item in row.items()] for v in possible)
            new = [len(missing.intersection(of_value)) for of_value in pairs]
            row[name] = possible[new.index(max(new))]
        row = {name: row[name] for name in values}


def _can_be(row: Row) -> bool:
    return row.get("streams") is not False or row.get("stream_name") is None


def all_combinations() -> Iterator[Answers]:
    """Yield every combination of features, and those of `FEATURE_SETS` also with strange texts.

    The choices of the other questions take turns.
    """
    choices = [name for name in QUESTIONS if kind_of(name) == "choices"]
    values = values_of_each_question()
    turns = [
        dict(zip(choices, turn, strict=True))
        for turn in itertools.product(*(values[name] for name in choices))
    ]
    for number, features in enumerate(feature_sets()):
        for strange in (False, True) if features in FEATURE_SETS.values() else (False,):
            turn = turns[(number + strange) % len(turns)]
            row: Row = {feature: feature in features for feature in FEATURES}
            texts = {n: UNUSUAL[n] if strange else None for n in UNUSUAL}
            if "streams" not in features:
                del texts["stream_name"]
            yield answers_of({**row, **turn, **texts})


def kind_of(name: str) -> str:
    """Tell a question with choices, the one for features, and one whose answer is free."""
    question = QUESTIONS[name]
    if question.get("multiselect"):
        return "features"
    return "choices" if "choices" in question else "free"


def describe(answers: Answers) -> str:
    """Name answers in the output of pytest."""
    shown: list[str] = []
    for name, value in answers.items():
        if isinstance(value, list):
            shown.append("+".join(value) or "none")
        else:
            shown.append(str(value) if kind_of(name) == "choices" else name)
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
    program = [sys.executable, quick_copier.COMMAND] if name == "copier" else [TOOLS / name]
    return quick_python.run(
        [*program, *arguments],
        cwd=cwd,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def compile_base(project: Path) -> None:
    """Compile the base once, for tests that run again and again and keep no bytecode."""
    compileall.compile_dir(project / "src" / "my_worker" / "workerbase", quiet=1)


def run_tests(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a project with the packages that are here, but with no plugin of theirs."""
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
    ours = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return quick_python.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *arguments],
        cwd=project,
        env=environment() | ours | {"PYTHONPATH": str(project / "src")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as somebody."""
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    return subprocess.check_output(
        ["git", *identity, *arguments], cwd=folder, env=environment(), text=True
    )
