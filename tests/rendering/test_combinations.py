"""Every combination of the choices: no residue of Jinja, nothing dead, valid for each tool."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest
import yaml
from dead_files import dead
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    COPIER,
    FEATURE_SETS,
    FEATURES,
    QUESTIONS,
    ROOT,
    UNUSUAL,
    Answers,
    Tree,
    all_combinations,
    answers_of,
    describe,
    feature_sets,
    files,
    pairwise,
    tool,
    values_of_each_question,
)
from thorough import THOROUGH

SCHEMAS = {
    ".github/workflows/*.yml": (
        "vendor.github-workflows",
        "custom.github-workflows-require-timeout",
    ),
    ".github/dependabot.yml": ("vendor.dependabot",),
    "compose*.yaml": ("vendor.compose-spec",),
    "renovate.json": ("vendor.renovate",),
}
"""Published schemas, as check-jsonschema brings them along."""

TESTED_BY_TELEMETRY = ("deploy/grafana/", "deploy/prometheus/")
"""Has no published schema; tests/telemetry compares it with what a worker exports."""

BASE = ROOT / "template" / "src" / "{{package_name}}" / "workerbase"


# Rendering all of them takes some minutes where other tests run beside it.
pytestmark = pytest.mark.timeout(1500)


def combinations() -> Iterator[Answers]:
    """Yield every combination of features, or those that stand for them."""
    for answers in all_combinations():
        if THOROUGH or features_of(answers) in map(set, FEATURE_SETS.values()):
            yield answers


@pytest.fixture(scope="module")
def projects(
    copier_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Answers, Path]]:
    """A project for each combination, by description."""
    folder = tmp_path_factory.mktemp("combinations")
    rendered: dict[str, tuple[Answers, Path]] = {}
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        for number, answers in enumerate([*combinations(), *map(answers_of, pairwise())]):
            project = renderer.copy(folder / f"{number}", **answers).path
            rendered[f"{number}-{describe(answers)}"] = (answers, project)
    return rendered


def all_files(projects: dict[str, tuple[Answers, Path]]) -> list[tuple[Path, str, str]]:
    """Return project, path and text of every file."""
    return [
        (project, path, content.decode("utf-8"))
        for _, project in projects.values()
        for path, content in files(project).items()
    ]


def test_nothing_of_jinja_is_left(projects: dict[str, tuple[Answers, Path]]) -> None:
    for project, path, text in all_files(projects):
        if "/workerbase/" in path:  # plain files, where Python's own braces are welcome
            assert text == (BASE / path.partition("/workerbase/")[2]).read_text("utf-8")
            continue
        # The expressions of GitHub, Grafana and Prometheus look alike.
        own = re.sub(r"\$\{\{ (github|matrix|needs|secrets|steps)\.[^{}]* \}\}", "", text)
        if path.startswith("deploy/grafana/"):
            json.loads(text)  # its nested objects end in braces, too
            own = re.sub(r"\{\{\w+\}\}|\}\}+(?=[\],\n])", "", own)
        if path.startswith("deploy/prometheus/") or path.endswith("/prometheus-rule.yaml"):
            own = re.sub(r"\{\{ \$[^{}]* \}\}", "", own)
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\{#|#\}", own + path), (project, path)
        assert not re.search(r"[ \t]$", text, re.MULTILINE), (project, path)
        assert "\r" not in text, (project, path)
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), (project, path)
        assert not text.startswith("\n"), (project, path)
        blank = "\n\n\n\n" if path.endswith((".py", ".md")) else "\n\n\n"
        if path != "LICENSE":
            assert blank not in text, (project, path)


def test_every_answer_is_in_the_answers_file(projects: dict[str, tuple[Answers, Path]]) -> None:
    for answers, project in projects.values():
        kept = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
        asked = {name: value for name, value in kept.items() if not name.startswith("_")}

        unasked = set() if "streams" in answers["features"] else {"stream_name"}
        assert set(asked) == set(QUESTIONS) - unasked
        assert answers.items() <= asked.items()


def test_every_answer_makes_a_difference(copier: CopierFixture, tmp_path: Path) -> None:
    def rendered(answers: Answers) -> Tree:
        project = files(copier.copy(tmp_path / str(len([*tmp_path.iterdir()])), **answers).path)
        del project[".copier-answers.yml"]
        return project

    values = values_of_each_question()
    defaults = {name: listed[0] for name, listed in values.items()}
    default = rendered(answers_of(defaults))
    for name, listed in values.items():
        for value in listed[1:]:
            answers = answers_of(defaults | {name: value})
            assert rendered(answers) != default, answers


OF_FEATURES = {
    "streams": (
        "src/*/handlers.py",
        "src/*/workerbase/streams",
        "tests/test_handlers.py",
    ),
    "devtools": ("src/*/workerbase/devtools",),
    "console": ("docs/console.md", "src/*/workerbase/console"),
    "leased_jobs": ("src/*/workerbase/jobs",),
    "telemetry": (
        "deploy/grafana",
        "deploy/prometheus",
        "docs/runbook.md",
        "src/*/workerbase/telemetry",
        "tests/test_metrics.py",
    ),
    "kubernetes": ("deploy/kubernetes", "tests/test_kubernetes.py"),
}
"""Files that are there with a feature and only then."""

WORKFLOWS = {"ci.yml", "release.yml", "template-update.yml"}

OF_TWO_FEATURES = {
    "deploy/kubernetes/base/groups.yaml": {"kubernetes", "streams"},
    "deploy/kubernetes/base/prometheus-rule.yaml": {"kubernetes", "telemetry"},
    "deploy/kubernetes/base/service-monitor.yaml": {"kubernetes", "telemetry"},
    "src/*/workerbase/devtools/messages": {"devtools", "streams"},
}


def test_choices_add_and_remove_whole_files(projects: dict[str, tuple[Answers, Path]]) -> None:
    for answers, project in projects.values():
        assert (project / "LICENSE").exists() is (answers["license"] != "Proprietary")
        assert (project / ".github").exists() is (answers["ci"] == "github")
        workflows = {path.name for path in project.glob(".github/workflows/*")}
        assert workflows == (WORKFLOWS if answers["ci"] == "github" else set())
        chosen = features_of(answers)
        for feature, patterns in OF_FEATURES.items():
            for pattern in patterns:
                assert any(project.glob(pattern)) is (feature in chosen), (project, pattern)
        for pattern, both in OF_TWO_FEATURES.items():
            assert any(project.glob(pattern)) is (both <= chosen), (project, pattern)


def features_of(answers: Answers) -> set[str]:
    chosen = answers["features"]
    assert isinstance(chosen, list)
    return {*chosen}


def test_the_combinations_that_are_meant_are_rendered(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    rendered = {frozenset(features_of(answers)) for answers, _ in projects.values()}

    expected = feature_sets() if THOROUGH else FEATURE_SETS.values()
    assert rendered >= {frozenset(features) for features in expected}
    assert OF_FEATURES.keys() == {*FEATURES}


WORDS = {
    "streams": r"[Ss]tream(?!lit)|event_|\b[Ee]vents?\b(?! loop)|handler|consumer|publish|parked",
    "console": r"(?<!```)\b[Cc]onsole|\bHistory\b|status --watch|starlette|uvicorn|jinja2"
    r"|watchfiles|:workers\b|:history:|:pauses\b|(?i:worker_?paused)",
    "devtools": r"devtools|\bdemo\b|\bchaos\b",
    "leased_jobs": r"LeasedJobs|\b[Ll]eased\b|workerbase.jobs",
    "telemetry": r"telemetry|(?i:prometheus)|metrics|[Ss]entry|structlog|opentelemetry|(?i:otel)",
    "kubernetes": r"(?i:kubernetes|kustomize|keda)|kubectl",
}
"""What a project does not speak of where it has not chosen a feature."""

ALLOWED = re.compile(
    r"""
    # The publisher is a user of Redis in each project, and a command of Redis.
    publisher|PUBLISHER|[+]publish|publishNotReadyAddresses
    # Of leases and the event loop.
    | event_loop|asyncio\.Event
    | lease_events_total|event="\w+"|event=~\S+|\(kind,[ ]event\)|\{\{event\}\}
    | has[ ]a[ ]handler
    """,
    re.VERBOSE,
)


def test_nothing_speaks_of_a_feature_that_was_not_chosen(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    found: set[tuple[str, str, str]] = set()
    for answers, project in projects.values():
        if UNUSUAL.keys() & answers.keys():
            continue  # the texts may contain any word
        for path, content in files(project).items():
            if "/workerbase/" in path or path in (".copier-answers.yml", "LICENSE"):
                continue
            text = ALLOWED.sub("", content.decode("utf-8"))
            for feature in {*FEATURES} - features_of(answers):
                for line in text.splitlines():
                    if re.search(WORDS[feature], line):
                        found.add((feature, path.replace("my_worker", "*"), line.strip()))
    assert sorted(found) == []


def matching(projects: dict[str, tuple[Answers, Path]], pattern: str) -> list[Path]:
    return [project / path for project, path, _ in all_files(projects) if fnmatch(path, pattern)]


def test_files_fit_their_published_schemas(projects: dict[str, tuple[Answers, Path]]) -> None:
    for pattern, schemas in SCHEMAS.items():
        chosen = [*matching(projects, pattern), *ROOT.glob(pattern)]
        for schema in schemas if chosen else ():
            tool("check-jsonschema", "--builtin-schema", schema, *chosen)


def test_zizmor_finds_nothing_to_say(projects: dict[str, tuple[Answers, Path]]) -> None:
    found = [*matching(projects, ".github/*.yml"), *ROOT.glob(".github/*.yml")]
    found += ROOT.glob(".github/workflows/*.yml")

    tool("zizmor", "--offline", "--no-progress", "--persona=pedantic", *found)


def test_pyproject_fits_its_schema(projects: dict[str, tuple[Answers, Path]]) -> None:
    tool("validate-pyproject", *matching(projects, "pyproject.toml"))


def test_pre_commit_accepts_its_configuration(projects: dict[str, tuple[Answers, Path]]) -> None:
    tool("pre-commit", "validate-config", *matching(projects, ".pre-commit-config.yaml"))


def test_hadolint_accepts_the_dockerfile(projects: dict[str, tuple[Answers, Path]]) -> None:
    tool("hadolint", "--failure-threshold=warning", *matching(projects, "Dockerfile"))


def test_no_data_file_is_without_a_check(projects: dict[str, tuple[Answers, Path]]) -> None:
    checked = [
        *SCHEMAS,
        "pyproject.toml",
        ".pre-commit-config.yaml",
        ".copier-answers.yml",
        "deploy/kubernetes/*.yaml",  # in test_kubernetes
    ]
    for project, path, _ in all_files(projects):
        if path.endswith((".yml", ".yaml", ".toml", ".json", ".json5")) and not path.startswith(
            TESTED_BY_TELEMETRY
        ):
            assert any(fnmatch(path, pattern) for pattern in checked), (project, path)


def test_ruff_finds_nothing_to_say_or_to_format(projects: dict[str, tuple[Answers, Path]]) -> None:
    folder = next(iter(projects.values()))[1].parent

    tool("ruff", "check", "--no-cache", ".", cwd=folder)
    tool("ruff", "format", "--no-cache", "--check", ".", cwd=folder)


def test_each_dependency_is_used_and_declared(projects: dict[str, tuple[Answers, Path]]) -> None:
    seen: list[tuple[object, object]] = []
    for _, project in projects.values():
        table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        requirements = (table["project"]["dependencies"], table["dependency-groups"])
        if requirements in seen:
            continue
        seen.append(requirements)
        # pydantic documents pydantic_core as its own and pins it; workerbase/testing is for the
        # tests of the project, which have fakeredis, and console/cli/dev.py is not in the wheel.
        allowed = "DEP003=pydantic_core,DEP004=fakeredis|watchfiles"
        tool("deptry", "src", "--per-rule-ignores", allowed, cwd=project)
        code = "".join(path.read_text("utf-8") for path in project.rglob("*.py"))
        used = code + str(table["tool"]) + " pytest-asyncio" * ("asyncio_mode" in str(table))
        used += " pyyaml types-pyyaml" * ("import yaml" in code)
        used += " opentelemetry-api" * ("from opentelemetry import" in code)
        for requirement in table["dependency-groups"]["dev"]:
            name = re.split(r"[^\w-]", requirement)[0]
            assert re.search(name.replace("-", "[-_.]"), used), name
    assert seen


def test_no_file_is_dead(projects: dict[str, tuple[Answers, Path]]) -> None:
    for name, (_, project) in projects.items():
        assert dead(files(project)) == [], name


def test_a_dead_file_would_be_found(copier: CopierFixture, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "project").path
    base = project / "src" / "my_worker" / "workerbase"
    shutil.copy(base / "errors.py", base / "forgotten.py")
    shutil.copy(base / "broker" / "lua" / "keys.lua", base / "broker" / "lua" / "forgotten.lua")
    (project / "setup.cfg").touch()

    forgotten = ("broker/lua/forgotten.lua", "forgotten.py")
    expected = ["setup.cfg", *(f"src/my_worker/workerbase/{name}" for name in forgotten)]
    assert dead(files(project)) == expected


def test_the_cover_is_pairwise() -> None:
    values = values_of_each_question()
    rows = [*pairwise()]

    for (one, left), (other, right) in product(values.items(), repeat=2):
        if one < other:
            for pair in product(left, right):
                values_of_pair = dict(zip((one, other), pair, strict=True))
                unasked = {"streams": False, "stream_name": UNUSUAL["stream_name"]}
                covered = any((row[one], row[other]) == pair for row in rows)
                assert covered is (values_of_pair != unasked), values_of_pair
    assert len(rows) < 20


def test_it_needs_no_trust() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(COPIER)


def test_one_version_of_uv_and_of_ruff_is_used_everywhere(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    uv: set[str] = set()
    for path in (*matching(projects, ".github/workflows/*.yml"), *ROOT.glob(".github/workflows/*")):
        text = path.read_text("utf-8")
        steps = re.findall(r"astral-sh/setup-uv@.*\n(.*\n.*\n)", text)
        assert text.count("astral-sh/setup-uv@") == len(steps)
        for step in steps:
            uv.update(re.findall(r'^ *version: "(.*)"$', step, re.MULTILINE) or ["none"])
    for path in matching(projects, "Dockerfile"):
        uv.update(re.findall(r"ghcr.io/astral-sh/uv:(\S+)", path.read_text("utf-8")))
    assert len(uv) == 1
    for path in matching(projects, ".pre-commit-config.yaml"):
        hooks = [
            hook
            for repository in yaml.safe_load(path.read_text("utf-8"))["repos"]
            for hook in repository["hooks"]
            if hook["id"].startswith("ruff")
        ]
        assert [hook["entry"].partition(" --")[0] for hook in hooks] == [
            "uv run ruff check",
            "uv run ruff format",
        ]
    for path in (*matching(projects, ".github/dependabot.yml"), ROOT / ".github/dependabot.yml"):
        assert "package-ecosystem: pre-commit" in path.read_text("utf-8")


def test_a_project_names_each_python_that_its_ci_tests_and_no_other(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    for answers, project in projects.values():
        metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
        oldest, newest = metadata["requires-python"].removeprefix(">=").split(",<3.")
        pythons = [f"3.{minor}" for minor in range(int(oldest.split(".")[1]), int(newest))]
        named = [c.rpartition(" ")[2] for c in metadata["classifiers"] if ":: 3." in c]
        assert named == pythons
        assert f"ARG PYTHON_VERSION={pythons[-1]}\n" in (project / "Dockerfile").read_text("utf-8")
        if answers.get("ci") != "none":
            workflow = (project / ".github" / "workflows" / "ci.yml").read_text("utf-8")
            assert f"python: {json.dumps(pythons)}\n" in workflow


def test_rendered_workflows_pin_actions_as_ours_do(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    """Dependabot sees our workflows, and those of the template that are not Jinja."""
    config = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text("utf-8"))
    (actions,) = (one for one in config["updates"] if one["package-ecosystem"] == "github-actions")
    assert actions["directories"] == ["/", "/template/.github/workflows"]
    folders = (".github/workflows", "template/.github/workflows")
    seen = pins_of(path for folder in folders for path in (ROOT / folder).glob("*.yml"))
    rendered = pins_of(matching(projects, ".github/workflows/*.yml"))

    assert seen
    assert {action: seen.get(action) for action in rendered} == rendered
    for action, pins in seen.items():
        assert len(pins) == 1, f"{action}: {pins}"
        assert re.fullmatch(r"[0-9a-f]{40} # v[\d.]+", *pins), f"{action}: {pins}"


def pins_of(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Return what each action is pinned to."""
    found: dict[str, set[str]] = {}
    for path in paths:
        for action, pin in re.findall(r"uses: (\S+)@(.+)", path.read_text("utf-8")):
            found.setdefault(action, set()).add(pin)
    return found
