"""A real browser on a real console: processes of the tiny project, and Chromium."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright
from processkit import Project, Running, until
from workerbase.testing import Server

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PAGES = (
    "", "queues", "dead", "jobs", "jobs?state=finished", "schedule", "workers", "pauses",
    "catalogue",
)  # fmt: skip
WIDTHS = (360, 1920)


def chromium() -> str | None:
    """Return the program of the system; None where Playwright has downloaded its own.

    A missing one fails the test in CI and skips it elsewhere.
    """
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    if any(own.glob("chromium-*")):
        return None
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "there is no Chromium: apt install chromium, or playwright install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def launch(playwright: Playwright) -> Browser:
    """Start the browser."""
    return playwright.chromium.launch(executable_path=chromium(), args=FLAGS)


class Site:
    """A worker and its console, as processes."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.project = Project(folder, server)
        self.worker = self.project.start("run", TINY_HISTORY="1")
        self.console = self.project.start("console", "--allow-changes", "--port", "0")
        self.url = self.address_of(self.console)
        until(lambda: self.project.redis.exists("arq:queue:workers"), "a worker")

    @staticmethod
    def address_of(console: Running) -> str:
        """Wait until a console listens and return its address."""

        def found() -> str:
            said = re.search(r"console at (\S+)", console.output)
            assert said or console.process.poll() is None, console.output
            return said[1] if said else ""

        return str(until(found, "a console"))

    def publish(self, how: str, count: int, seconds: float = 0.0) -> None:
        """Publish orders."""
        for number in range(count):
            data = f'{{"number": {number}, "how": "{how}", "seconds": {seconds}}}'
            self.project.redis.xadd("orders", {"type": "order", "data": data})

    def dead(self, count: int) -> None:
        """Wait for ``count`` dead letters."""
        until(lambda: self.project.redis.xlen("orders:dlq") == count, "dead letters")

    def close(self) -> None:
        self.project.close()


@contextlib.contextmanager
def page_of(browser: Browser, width: int = 1280, **options: Any) -> Iterator[Page]:
    """Open a page that fails the test where the browser complains or asks elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    try:
        yield page
        assert complaints == []
        assert len(hosts) <= 1
    finally:
        context.close()


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
