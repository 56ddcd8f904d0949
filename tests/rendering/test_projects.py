"""Rendered projects pass their own tests, linter, formatter and type checkers."""

import functools
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    FEATURE_SETS,
    FEATURES,
    ROOT,
    Answers,
    answers_of,
    describe,
    environment,
    feature_sets,
    git,
    pairwise,
    tool,
    try_tool,
)
from thorough import THOROUGH

CHECKS = {
    "pytest": ("pytest", "-q", "-p", "no:cacheprovider"),
    "mypy": ("mypy",),
    "pyright": ("pyright",),
    "ruff check": ("ruff", "check"),
    "ruff format": ("ruff", "format", "--check"),
}

# pyright has no cache. It checks the base where it lies, and in the project of the defaults.
OWN_FILES = {
    "include": ["../src", "../tests"],
    "exclude": ["**/workerbase"],
    "venvPath": "..",
    "venv": ".venv",
    "typeCheckingMode": "strict",
    "reportMissingTypeStubs": False,
}
TYPES_OF_OWN_FILES = CHECKS | {"pyright": ("pyright", "--project", ".venv/pyright.json")}
CHEAP_CHECKS = TYPES_OF_OWN_FILES | {"pytest": (*CHECKS["pytest"], "-m", "not integration")}

# All suites are those of each pair of answers, on the oldest Python that it promises, of each
# combination of features, and of the defaults on every Python. Otherwise the defaults, all features
# and none share the Pythons, and a few other combinations pass what is fast.
PAIRS = list(pairwise())
DEFAULTS = answers_of(PAIRS[0])
OF_PAIRS = dict.fromkeys(tuple(f for f in FEATURES if row[f]) for row in PAIRS)
CHEAP = [features for features in OF_PAIRS if features not in FEATURE_SETS.values()]
if THOROUGH:
    RUNS = [(str(row["python_version"]), answers_of(row)) for row in PAIRS]
    RUNS += [(python, DEFAULTS) for python in ("3.12", "3.13", "3.14")]
    RUNS += [("3.11", {"features": list(features)}) for features in feature_sets()]
else:
    RUNS = [("3.11", DEFAULTS), ("3.12", {"features": []}), ("3.13", {"features": [*FEATURES]})]
    CHEAP = CHEAP[:1]

STRANGE_FOLDERS = {"3.12": "Zoë's Wörker (new)"}
"""Where the projects of this Python lie, as homes on Windows and macOS may be called."""


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[str, Path]]:
    """A folder for each Python, where projects come one after the other and share a cache."""
    with tempfile.TemporaryDirectory(prefix="render-") as folder:
        yield {
            python: Path(folder) / STRANGE_FOLDERS.get(python, python) / "project"
            for python in ("3.11", "3.12", "3.13", "3.14", "all")
        }


@functools.cache
def can_have(python: str) -> bool:
    """Whether this machine has the Python, or uv can get it."""
    return any(try_tool("uv", "python", do, python).returncode == 0 for do in ("find", "install"))


def clear(project: Path) -> None:
    """Remove a former project, without what takes long to make again."""
    for path in project.iterdir() if project.exists() else ():
        if path.is_dir() and path.name not in {".venv", ".mypy_cache"}:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def run_checks(project: Path, checks: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Run all checks side by side; return the output of those that fail."""
    (project / ".venv" / "pyright.json").write_text(json.dumps(OWN_FILES))
    running = {
        name: subprocess.Popen(
            [project / ".venv" / "bin" / command[0], *command[1:]],
            cwd=project,
            env=environment() | {"CI": "true"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, command in checks.items()
    }
    failed: dict[str, str] = {}
    for name, process in running.items():
        output, _ = process.communicate(timeout=300)
        if process.returncode:
            failed[name] = output
    return failed


@pytest.mark.parametrize(
    ("python", "answers"), RUNS, ids=[f"{python}:{describe(a)}" for python, a in RUNS]
)
def test_a_project_passes_its_own_checks(
    copier: CopierFixture, homes: dict[str, Path], python: str, answers: Answers
) -> None:
    if not can_have(python):
        pytest.skip(f"uv neither finds nor downloads Python {python} here")
    project = homes[python]
    clear(project)
    copier.copy(project, **answers)
    git(project.parent, "init", "--quiet", str(project))
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Start")

    tool("uv", "sync", "--quiet", "--python", python, cwd=project)
    version = subprocess.check_output([project / ".venv" / "bin" / "python", "-V"], text=True)
    assert version.startswith(f"Python {python}.")
    failed = run_checks(project, CHECKS if THOROUGH or answers == DEFAULTS else TYPES_OF_OWN_FILES)

    assert not failed, "\n".join(f"--- {name}\n{output}" for name, output in failed.items())
    assert git(project, "status", "--porcelain") == "?? uv.lock\n"


@pytest.fixture(scope="module")
def equipped(copier_template: Path, homes: dict[str, Path]) -> Path:
    """A folder with an environment for all features, in which projects come and go."""
    project = homes["all"]
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        renderer.copy(project, features=list(FEATURES))
    tool("uv", "sync", "--quiet", "--python", "3.11", cwd=project)
    return project


@pytest.mark.parametrize("features", CHEAP, ids=["+".join(features) for features in CHEAP])
def test_every_other_combination_of_features_passes_its_fast_checks(
    copier: CopierFixture, equipped: Path, features: tuple[str, ...]
) -> None:
    clear(equipped)
    copier.copy(equipped, features=list(features))

    failed = run_checks(equipped, CHEAP_CHECKS)

    assert not failed, "\n".join(f"--- {name}\n{output}" for name, output in failed.items())


def test_a_failing_check_is_noticed(copier: CopierFixture, homes: dict[str, Path]) -> None:
    project = homes["3.11"]
    clear(project)
    copier.copy(project)
    tool("uv", "sync", "--quiet", "--python", "3.11", cwd=project)
    package = project / "src" / "my_worker"
    (package / "tasks.py").write_text(
        (package / "tasks.py").read_text("utf-8").replace("def send_confirmation", "def confirm"),
        "utf-8",
    )
    (package / "handlers.py").write_text(
        (package / "handlers.py").read_text("utf-8").replace("PermanentError(f", "KeyError(f"),
        "utf-8",
    )

    assert set(run_checks(project, TYPES_OF_OWN_FILES)) == {
        "pytest",
        "mypy",
        "pyright",
        "ruff check",
    }


BASE = ROOT / "template" / "src" / "{{package_name}}" / "workerbase"


def expected_scripts(features: tuple[str, ...]) -> set[str]:
    """Return the scripts that the template has for a project with these features."""
    packages = {"console": "console", "leased_jobs": "jobs", "streams": "streams"}
    excluded = tuple(f"{package}/" for name, package in packages.items() if name not in features)
    found = {path.relative_to(BASE).as_posix() for path in BASE.rglob("*.lua")}
    return {name for name in found if not name.startswith(excluded)}


PAGES = (".css", ".html", ".js", ".svg")


def expected_pages(features: tuple[str, ...]) -> set[str]:
    """Return the files of the console that are not Python."""
    found = {path.relative_to(BASE).as_posix() for path in (BASE / "console").rglob("*.*")}
    return {name for name in found if name.endswith(PAGES) and "console" in features}


@pytest.mark.parametrize("features", FEATURE_SETS.values(), ids=FEATURE_SETS)
def test_the_wheel_has_package_scripts_licence_and_type_marker_and_nothing_for_development(
    copier: CopierFixture, tmp_path: Path, features: tuple[str, ...]
) -> None:
    project = copier.copy(tmp_path / "project", features=list(features)).path

    tool("uv", "build", "--quiet", "--wheel", cwd=project)

    (wheel,) = (project / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    base = "my_worker/workerbase/"
    assert {"my_worker/py.typed", f"{base}process/probe.py"} <= names
    assert "my_worker-0.1.0.dist-info/licenses/LICENSE" in names
    assert not {name for name in names if not name.startswith("my_worker")}
    assert not {name for name in names if re.search("/(testing|devtools)/", name)}
    scripts = {name.removeprefix(base) for name in names if name.endswith(".lua")}
    assert scripts == expected_scripts(features)
    pages = {name.removeprefix(base) for name in names if name.endswith(PAGES)}
    assert pages == expected_pages(features)
    assert ("console/templates/base.html" in pages) is ("console" in features)
    assert f"{base}console/cli/dev.py" not in names
    assert ("streams/lua/reclaim.lua" in scripts) is ("streams" in features)
    assert ("jobs/lua/claim.lua" in scripts) is ("leased_jobs" in features)
    assert "broker/lua/enqueue.lua" in scripts


def test_what_is_installed_from_the_wheel_runs_its_commands_and_finds_its_scripts(
    copier: CopierFixture, tmp_path: Path
) -> None:
    project = copier.copy(tmp_path / "project", features=list(FEATURES)).path
    tool("uv", "build", "--quiet", "--wheel", cwd=project)
    (wheel,) = (project / "dist").glob("*.whl")
    tool("uv", "venv", "--quiet", "--python", "3.11", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    extras = f"{wheel}[cli,telemetry]"
    tool("uv", "pip", "install", "--quiet", "--python", python, extras, cwd=tmp_path)

    listed = tool_of(python, "my-worker", "--help").partition("Commands:")[2]
    commands = {line.split()[0] for line in listed.splitlines() if line.strip()}
    core = {"dlq", "enqueue", "health", "run", "status"}
    console, streams = (
        {"console", "find", "jobs", "pause", "resume", "schedule", "workers"},
        {"groups", "publish"},
    )
    assert commands == core | console | streams
    code = "import my_worker.worker as w, json; print([s.name for s in w.WorkerSettings.services])"
    assert tool_of(python, "python", "-c", code) == "['streams', 'jobs', 'telemetry', 'history']\n"


def tool_of(python: Path, name: str, *arguments: str) -> str:
    """Run a program beside ``python``; return its output."""
    return subprocess.check_output(
        [python.with_name(name), *arguments], text=True, env=environment(), cwd=python.parent
    )


@pytest.mark.parametrize("features", FEATURE_SETS.values(), ids=FEATURE_SETS)
def test_the_context_of_the_image_has_what_the_wheel_is_built_from(
    copier: CopierFixture, tmp_path: Path, features: tuple[str, ...]
) -> None:
    """The image installs the project as the wheel that is built from its context."""
    project = copier.copy(tmp_path / "project", features=list(features)).path
    dockerfile = (project / "Dockerfile").read_text("utf-8")
    assert "COPY . ." in dockerfile
    assert "uv pip install --no-deps --prefix /project ." in dockerfile
    assert "editable" not in dockerfile
    context = sent_to_docker(project)
    for name in context:
        (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, tmp_path / "context" / name)
    (copied,) = re.findall(r"^COPY --chmod=644 (\S+)", dockerfile, re.MULTILINE)
    assert copied in context

    target = tmp_path / "installed"
    install = ("uv", "pip", "install", "--quiet", "--no-deps", "--prefix", str(target))
    tool(*install, ".", cwd=tmp_path / "context")

    (base,) = target.glob("lib/python*/site-packages/my_worker/workerbase")
    installed = {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
    assert {name for name in installed if name.endswith(".lua")} == expected_scripts(features)
    assert {name for name in installed if name.endswith(PAGES)} == expected_pages(features)
    assert not {name for name in installed if name.startswith(("testing/", "devtools/"))}
    assert "process/probe.py" in installed


def sent_to_docker(project: Path) -> set[str]:
    """Return the files that .dockerignore leaves in: it excludes all, then names what is needed."""
    first, *lines = (project / ".dockerignore").read_text("utf-8").split()
    assert first == "*"
    wanted = tuple(line.removeprefix("!") for line in lines if line.startswith("!"))
    names = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    return {
        name.as_posix()
        for name in names
        if name.parts[0] in wanted and "__pycache__" not in name.parts
    }


@pytest.mark.parametrize("telemetry", [False, True])
def test_the_bill_of_materials_is_valid_and_lists_what_the_image_installs(
    copier: CopierFixture, tmp_path: Path, telemetry: bool
) -> None:
    features = ["telemetry"] if telemetry else []
    project = copier.copy(tmp_path / "project", features=features).path
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    (options,) = re.findall(r"run: uv (export .*)$", workflow, re.MULTILINE)

    tool("uv", *options.split(), cwd=project)

    bill = json.loads((project / "sbom.cdx.json").read_text("utf-8"))
    listed = {component["name"] for component in bill["components"]}
    if not THOROUGH:
        bill["components"] = bill["components"][:3]  # the addresses in each take almost a second
    text = json.dumps(bill)
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text.replace("purl", "pearl"))
    assert {"arq", "redis"} <= listed
    dockerfile = (project / "Dockerfile").read_text("utf-8")
    assert ("--all-extras" in dockerfile) is ("sentry-sdk" in listed) is telemetry
    assert {"click", "rich"} <= listed
    assert not listed & {"pytest", "ruff"}
