"""Takes pictures of each page from workers under chaos: ``nox -s screenshots -- FOLDER``.

Workers are killed and Redis is restarted while messages and jobs of all kinds arrive.
"""

import asyncio
import contextlib
import os
import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from browserkit import FLAGS, PAGES, chromium
from playwright.async_api import Browser, async_playwright
from waiting import until
from workerbase.broker.redis_errors import OUTAGE_ERRORS
from workerbase.console import Access, make_console
from workerbase.devtools import chaos
from workerbase.devtools.chaos_worker import MAX_ATTEMPTS, settings_of
from workerbase.devtools.workload import Item, ItemKind, workloads
from workerbase.testing import Server

WIDTHS = (390, 1440)
KINDS: tuple[ItemKind, ...] = ("good",) * 30 + ("flaky",) * 4 + ("toxic", "permanent")
PLAN = chaos.Plan(
    messages=0, jobs=0, workers=3, producers=1, kill=0.01, restart=0.005, toxic=0.0, killers=0,
    lease=5.0, seed=7, timeout=0.0,
)  # fmt: skip
SECONDS = 240.0
"""How long the workers work before the pictures are taken."""


async def produce(run: Any) -> None:
    """Send a few of all kinds, in waves."""
    number = 0
    while True:
        for workload in run.workloads:
            items = [
                Item(
                    number=(number := number + 1),
                    kind=random.choice(KINDS),
                    seconds=random.expovariate(4),
                )
                for _ in range(random.randrange(1, 12))
            ]
            with contextlib.suppress(*OUTAGE_ERRORS):
                await workload.send(run.redis, items)
        await asyncio.sleep(random.choice((0.1, 0.3, 1.0)))


@contextlib.asynccontextmanager
async def under_chaos() -> AsyncIterator[str]:
    """Run workers under chaos and their console; yield its address."""
    with Server(persistent=True) as server, tempfile.TemporaryDirectory() as folder:
        run = chaos._Run(PLAN, server, folder)
        os.environ |= {"WORKER_REDIS_DSN": server.dsn, "WORKER_CONSUMER_GROUP": "demo"}
        app = make_console(settings_of(workloads(), MAX_ATTEMPTS), Access(allow_changes=True))
        pages = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
        tasks = [
            asyncio.create_task(work)
            for work in (run.keep_workers(), run.cause_faults(), produce(run), pages.serve())
        ]
        try:
            await until(lambda: pages.started)
            port = pages.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}/"
        finally:
            run.finished = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await chaos._stop(run.workers)
            await run.redis.aclose(close_connection_pool=True)


async def take(browser: Browser, url: str, folder: Path) -> None:
    """Take all pictures."""
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            context = await browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                device_scale_factor=2 if width < 700 else 1,
            )
            page = await context.new_page()
            for path in PAGES:
                await page.goto(url + path)
                name = re.sub(r"\W+", "-", path) or "overview"
                await page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
            await page.goto(f"{url}dead")
            for name, link in (("letter", ".pick tbody a"), ("payload", ".button")):
                if await page.locator(link).count():
                    await page.locator(link).first.click()
                    target = folder / f"{name}-{width}-{scheme}.png"
                    await page.screenshot(path=target, full_page=True)
            await page.goto(f"{url}dead")
            await page.get_by_label("that match").check()
            await page.get_by_role("button", name="Replay…").click()
            await page.screenshot(path=folder / f"preview-{width}-{scheme}.png", full_page=True)
            await context.close()


async def main(folder: Path, seconds: float) -> None:
    """Let workers work, then take pictures."""
    async with under_chaos() as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        await asyncio.sleep(seconds)
        await take(browser, url, folder)
        await browser.close()


if __name__ == "__main__":
    _, target, *more = sys.argv
    Path(target).mkdir(parents=True, exist_ok=True)
    asyncio.run(main(Path(target), float(more[0]) if more else SECONDS))
