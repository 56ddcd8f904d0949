"""The console at length: accessibility, 100,000 dead letters, and what many browsers cost."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browserkit import PAGES, Site, fits, launch, page_of
from playwright.sync_api import Browser, expect, sync_playwright
from workerbase.testing import Server

AXE = os.environ.get("AXE", "")
MANY = 100_000

pytestmark = [
    pytest.mark.skipif(not AXE, reason="nox -s browsers runs them"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Server() as server:
        running = Site(tmp_path_factory.mktemp("site"), server)
        yield running
        running.close()


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(site: Site, browser: Browser, width: int, scheme: str) -> None:
    site.publish("refused", 3)
    site.publish("fine", 2, seconds=30)
    site.project.run("enqueue", "add", "1", "--in", "1h", "--id", "later")
    script = Path(AXE).read_text("utf-8")
    found: dict[str, Any] = {}
    with page_of(browser, width, color_scheme=scheme, bypass_csp=True) as page:
        page.goto(f"{site.url}dead")
        letter = page.locator(".pick tbody a").first.get_attribute("href") or ""
        more = (letter.lstrip("/"), f"{letter.lstrip('/')}&payload=1", "job?id=later", "find?id=x")
        for path in (*PAGES, *more):
            page.goto(site.url + path)
            page.evaluate(script)
            result = page.evaluate("axe.run()")
            for violation in result["violations"]:
                nodes = [node["html"][:120] for node in violation["nodes"][:3]]
                found[f"{path}: {violation['id']}"] = nodes
            assert fits(page), path
        page.goto(f"{site.url}dead")
        page.get_by_label("that match").check()
        page.get_by_role("button", name="Purge…").click()
        page.evaluate(script)
        found |= {v["id"]: v["help"] for v in page.evaluate("axe.run()")["violations"]}
    assert found == {}


def test_a_hundred_thousand_dead_letters(site: Site, browser: Browser) -> None:
    redis = site.project.redis
    redis.delete("orders:dlq")
    for first in range(0, MANY, 2_000):
        pipe = redis.pipeline(transaction=False)
        for number in range(first, first + 2_000):
            fields = {
                "type": "order", "data": f'{{"number": {number}}}', "_id": f"m-{number}",
                "_reason": "retries", "_error_type": "KeyError" if number % 2 else "ValueError",
                "_error": "no stock", "_traceback": "Traceback: " + "x" * 500, "_attempts": "5",
            }  # fmt: skip
            pipe.xadd("orders:dlq", fields)
        pipe.execute()
    with page_of(browser, 390) as page:
        for path in ("", "dead", "dead?error=KeyError"):
            started = time.monotonic()
            page.goto(site.url + path)
            print(f"/{path}: {time.monotonic() - started:.2f} s")
        expect(page.locator("#part")).to_contain_text("of the newest 2\u202f000 match")
        page.get_by_role("button", name="Replay…").click()
        expect(page.locator("h1")).to_have_text("Replay: preview")
        button = page.get_by_role("button", name="Replay 50\u202f000")
        button.wait_for(timeout=300_000)
        page.goto(f"{site.url}dead?error=KeyError")
        page.get_by_role("button", name="Purge…").click()
        page.get_by_role("button", name="Delete 50\u202f000 for good").click(timeout=300_000)
        expect(page.locator("progress")).to_have_count(0, timeout=300_000)
        expect(page.locator(".stats dd").first).to_have_text("50\u202f000")
    assert redis.xlen("orders:dlq") == MANY // 2


def commands(site: Site, seconds: float) -> float:
    """Return how many commands a second Redis gets."""
    before = site.project.redis.info("stats")["total_commands_processed"]
    time.sleep(seconds)
    after = site.project.redis.info("stats")["total_commands_processed"]
    return float(after - before) / seconds


def test_many_browsers_cost_redis_what_one_costs(site: Site, browser: Browser) -> None:
    site.project.redis.delete("orders:dlq")
    costs: dict[int, float] = {0: commands(site, 20)}
    contexts: list[Any] = []
    for count in (1, 20):
        while len(contexts) < count:  # a browser opens no more than six connections to a host
            contexts.append(browser.new_context())
            contexts[-1].new_page().goto(site.url)
        costs[count] = commands(site, 20)
    for context in contexts:
        context.close()
    print("commands a second with 0, 1, 20 browsers:", costs)
    assert costs[20] < costs[1] * 1.5 + 2
