"""Every combination of the choices: no residue of Jinja, nothing dead, valid for each tool."""

import ast
import re
import shutil
import tomllib
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest
import yaml
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    COPIER,
    QUESTIONS,
    ROOT,
    Answers,
    Tree,
    all_choices,
    describe,
    files,
    kind_of,
    only_given,
    pairwise,
    tool,
    values_of_each_question,
)

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

WHO_READS = {
    ".copier-answers.yml": "copier update",
    ".dockerignore": "docker",
    ".editorconfig": "editors",
    ".env.example": "people",
    ".gitattributes": "git",
    ".github/dependabot.yml": "GitHub",
    ".github/workflows/*.yml": "GitHub",
    ".gitignore": "git",
    ".pre-commit-config.yaml": "pre-commit",
    "CHANGELOG.md": "people",
    "deploy/grafana/*.json": "Grafana",
    "deploy/prometheus/*.yml": "Prometheus",
    "Dockerfile": "docker",
    "LICENSE": "people",
    "README.md": "people",
    "compose*.yaml": "docker compose",
    "deploy/kubernetes/*/kustomization.yaml": "kubectl",
    "pyproject.toml": "uv",
    "renovate.json": "Renovate",
    "src/*/py.typed": "type checkers",
    "src/*/__init__.py": "Python",
    "src/*/__main__.py": "Python",
    "tests/conftest.py": "pytest",
    "tests/test_*.py": "pytest",
}
"""Files with a reader by convention; each other one must be used by another file."""


@pytest.fixture(scope="module")
def projects(
    copier_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Answers, Path]]:
    """A project for each combination, by description."""
    folder = tmp_path_factory.mktemp("combinations")
    rendered: dict[str, tuple[Answers, Path]] = {}
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        for number, answers in enumerate([*all_choices(), *pairwise()]):
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
        if path.startswith("deploy/grafana/"):  # and those of Grafana
            assert text == (ROOT / "template" / path).read_text("utf-8")
            continue
        # The expressions of GitHub and of Prometheus look alike.
        own = re.sub(r"\$\{\{ (github|matrix|secrets|steps)\.[^{}]* \}\}", "", text)
        if path.startswith("deploy/prometheus/"):
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

        assert set(asked) == set(QUESTIONS)
        assert answers.items() <= asked.items()


def test_every_answer_makes_a_difference(copier: CopierFixture, tmp_path: Path) -> None:
    def rendered(answers: Answers) -> Tree:
        project = files(copier.copy(tmp_path / str(len([*tmp_path.iterdir()])), **answers).path)
        del project[".copier-answers.yml"]
        return project

    # An option may have its place in the files of another one.
    options: Answers = {name: True for name in QUESTIONS if kind_of(name) == "bool"}
    default, full = rendered({}), rendered(options)
    for name, values in values_of_each_question().items():
        for value in values[1:]:
            answers = only_given({name: value})
            without = options | {name: False}
            alone = rendered(answers) != default

            assert alone or (name in options and rendered(without) != full), answers


def test_choices_add_and_remove_whole_files(projects: dict[str, tuple[Answers, Path]]) -> None:
    for answers, project in projects.values():
        assert (project / "LICENSE").exists() is (answers["license"] != "Proprietary")
        assert (project / ".github").exists() is (answers["ci"] == "github")
        assert (project / "deploy" / "kubernetes").exists() is answers["kubernetes"]
        assert (project / "tests" / "test_kubernetes.py").exists() is answers["kubernetes"]
        monitor = project / "deploy" / "kubernetes" / "base" / "service-monitor.yaml"
        assert monitor.exists() is (answers["kubernetes"] and answers["telemetry"])
        for name in (
            "src/*/workerbase/telemetry",
            "deploy/grafana",
            "deploy/prometheus",
            "tests/test_metrics.py",
        ):
            assert any(project.glob(name)) is answers["telemetry"], name


def test_without_telemetry_nothing_speaks_of_it(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    for answers, project in projects.values():
        if not answers["telemetry"]:
            for path, content in files(project).items():
                if path.startswith(("src/", "pyproject", ".env")) and "/workerbase/" not in path:
                    assert not re.search(rb"telemetry|(?i:prometheus)|metrics", content), path


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
        # pydantic documents pydantic_core as its own and pins it; testing.py is for the tests of
        # the project, which have fakeredis.
        allowed = "DEP003=pydantic_core,DEP004=fakeredis"
        tool("deptry", "src", "--per-rule-ignores", allowed, cwd=project)
        code = "".join(path.read_text("utf-8") for path in project.rglob("*.py"))
        used = code + str(table["tool"]) + " pytest-asyncio" * ("asyncio_mode" in str(table))
        used += " pyyaml types-pyyaml" * ("import yaml" in code)
        for requirement in table["dependency-groups"]["dev"]:
            name = re.split(r"[^\w-]", requirement)[0]
            assert re.search(name.replace("-", "[-_.]"), used), name
    assert seen


def imported(path: str, text: str) -> set[str]:
    """Return the dotted names, below ``src``, of the modules that a module imports."""
    parts = Path(path).with_suffix("").parts[1 if path.startswith("src/") else 0 :]
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = parts[: len(parts) - node.level] if node.level else ()
            module = ".".join([*home, *(node.module or "").split(".")]).strip(".")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def dead(tree: Tree) -> list[str]:
    """Return the files that nothing reads, imports or names."""
    texts = {path: content.decode("utf-8") for path, content in tree.items()}
    imports = {path: imported(path, text) for path, text in texts.items() if path.endswith(".py")}
    found: list[str] = []
    for path in texts:
        if any(fnmatch(path, pattern) for pattern in WHO_READS):
            continue
        module = ".".join(Path(path).with_suffix("").parts[1:])
        if any(module in names for other, names in imports.items() if other != path):
            continue
        # Run as a program by its dotted name after python -m, or read by its path or name.
        names = [path, module.partition(".")[2] if path.endswith(".py") else Path(path).name]
        named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
        if not any(named.search(text) for other, text in texts.items() if other != path):
            found.append(path)
    return found


def test_no_file_is_dead(projects: dict[str, tuple[Answers, Path]]) -> None:
    for name, (_, project) in projects.items():
        assert dead(files(project)) == [], name


def test_a_dead_file_would_be_found(copier: CopierFixture, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "project").path
    base = project / "src" / "my_worker" / "workerbase"
    shutil.copy(base / "lease.py", base / "forgotten.py")
    (project / "setup.cfg").touch()

    assert dead(files(project)) == ["setup.cfg", "src/my_worker/workerbase/forgotten.py"]


def test_the_cover_is_pairwise() -> None:
    values = values_of_each_question()
    rows = [{name: row.get(name) for name in values} for row in pairwise()]

    for (one, left), (other, right) in product(values.items(), repeat=2):
        if one < other:
            for pair in product(left, right):
                assert any((row[one], row[other]) == pair for row in rows), (one, other, pair)
    assert len(rows) < 16


def test_it_needs_no_trust() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(COPIER)


def test_rendered_workflows_pin_actions_as_ours_do(
    projects: dict[str, tuple[Answers, Path]],
) -> None:
    """Dependabot cannot see the template's workflows, but it sees ours."""
    found: dict[str, set[str]] = {}
    for path in [*matching(projects, ".github/workflows/*.yml"), *ROOT.glob(".github/*/*.yml")]:
        for action, pin in re.findall(r"uses: (\S+)@(.+)", path.read_text("utf-8")):
            found.setdefault(action, set()).add(pin)

    assert found
    for action, pins in found.items():
        assert len(pins) == 1, f"{action}: {pins}"
        assert re.fullmatch(r"[0-9a-f]{40} # v[\d.]+", *pins), f"{action}: {pins}"
