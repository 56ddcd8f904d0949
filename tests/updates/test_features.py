"""A feature is switched on and off by `copier update`, and docs/features.md names what it needs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import THOROUGH
from updates.conftest import Make, Project, run
from updates.releases import HEAD, NEXT
from updates.test_upgrade import is_own

CORE = {"base", "dlq", "enqueue", "health", "run", "status"}
COMMANDS = {
    "streams": {"publish", "groups"},
    "devtools": {"demo", "chaos"},
    "console": {"console", "dev", "find", "jobs", "pause", "resume", "schedule", "workers"},
    "leased_jobs": set[str](),
    "telemetry": set[str](),
    "kubernetes": set[str](),
}
FEATURES = tuple(COMMANDS)

SETS = {"all": FEATURES}
if THOROUGH:
    SETS |= {name: (name,) for name in FEATURES}

SERVICES = {"console", "streams", "leased_jobs", "telemetry"}
"""Features that are services, and so need a line in worker.py."""


def answer(features: tuple[str, ...]) -> str:
    return f"features=[{', '.join(features)}]"


DESCRIPTION = "description=Sends letters."
"""Its default depends on the features, and an update keeps what was answered."""


def block(project: Project, introduction: str) -> str:
    """Return the code in docs/features.md that follows a sentence; empty if that is not there."""
    text = (project.path / "docs" / "features.md").read_text("utf-8")
    found = re.search(rf"{re.escape(introduction)}[^\n]*\n\n```python\n(.*?)```", text, re.DOTALL)
    return found[1] if found else ""


def add_imports(text: str, code: str) -> str:
    """Put the imports of ``code`` behind those of ``text``; the linter sorts them."""
    lines = "".join(re.findall(r"^from .*\n", code, re.MULTILINE))
    last = re.findall(r"^from .*\n", text, re.MULTILINE)[-1]
    return text.replace(last, last + lines, 1)


def follow_the_documentation(project: Project) -> int:
    """Do by hand what docs/features.md says; return how many lines worker.py got."""
    worker, settings = project.source / "worker.py", project.source / "settings.py"
    lines = 0
    if code := block(project, "In `src/my_worker/worker.py`"):
        (line,) = re.findall(r"^ {4}services = .*\n", code, re.MULTILINE)
        worker.write_text(add_imports(worker.read_text(), code) + line)
        lines += 1
    if code := block(project, "In `src/my_worker/settings.py`"):
        (line,) = re.findall(r"^class Config.*?:", code, re.MULTILINE)
        own = "".join(re.findall(r"^ {4}\w.*\n", code, re.MULTILINE))
        text = add_imports(settings.read_text(), code)
        settings.write_text(re.sub(r"^class Config.*?:", line, text, flags=re.MULTILINE) + own)
    if code := block(project, "`src/my_worker/handlers.py` contains"):
        (project.source / "handlers.py").write_text(f'"""Our handlers."""\n\n{code}')
    for command in (("check", "--fix"), ("format",)):
        done = run(project.path, "ruff", *command, "--no-cache")
        assert done.returncode == 0, done.stdout
    return lines


def assert_is_as_fresh(project: Project, fresh: Path) -> None:
    """Compare what is not the project's own with a fresh project, both ways."""
    expected = {
        name: file.read_bytes()
        for file in fresh.rglob("*")
        if file.is_file() and not is_own(name := file.relative_to(fresh).as_posix())
    }
    tracked = (name for name in project.git("ls-files").splitlines() if not is_own(name))
    found = {name: (project.path / name).read_bytes() for name in tracked}
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("features", SETS.values(), ids=SETS)
def test_features_are_switched_on_and_off_by_an_update(
    make: Make, rendered: Callable[..., Path], features: tuple[str, ...]
) -> None:
    project = make(HEAD, answer(()), DESCRIPTION)
    assert project.commands() == CORE
    before = {path: path.read_bytes() for path in project.source.glob("*.py")}

    changed = project.update(NEXT, "-d", answer(features))

    project.commit()
    assert not [name for name in changed if is_own(name)]
    assert_is_as_fresh(project, rendered(NEXT, answer(features), DESCRIPTION))
    assert project.commands() == CORE.union(*(COMMANDS[name] for name in features))
    if not {"streams", "kubernetes"} <= {*features}:
        # Nothing has been done by hand. Only the triggers for streams already need their handlers.
        project.check()

    assert follow_the_documentation(project) == bool(SERVICES.intersection(features))
    project.check(processes=True)
    shown = project.command("status", "--help").stdout
    assert ("--watch" in shown) is ("console" in features)

    for path in project.source.glob("*.py"):
        path.unlink()
    for path, text in before.items():
        path.write_bytes(text)
    project.commit()
    project.update(NEXT, "-d", answer(()))

    project.commit()
    assert_is_as_fresh(project, rendered(NEXT, answer(()), DESCRIPTION))
    assert project.commands() == CORE
    project.check(processes=features == FEATURES)
