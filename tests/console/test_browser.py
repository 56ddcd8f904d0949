"""The console in a real browser: pages, changes, live updates, a prefix, refused requests."""

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import httpx
import pytest
import uvicorn
from browserkit import PAGES, WIDTHS, Site, fits, launch, page_of
from consolekit import settings_of
from playwright.sync_api import Browser, expect, sync_playwright
from processkit import until
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Mount
from workerbase.console import Access, make_console
from workerbase.testing import Server
from workerconfig import Config


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of this module alone, whose tests have no event loop of their own.
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.delenv("WORKER_REDIS_DSN", raising=False)
        running = Site(tmp_path_factory.mktemp("site"), server)
        yield running
        running.close()


@pytest.fixture
def site(shared: Site) -> Site:
    """The console, without what former tests left."""
    for key in ("orders:dlq", "orders:parked", "arq:queue:dlq"):
        shared.project.redis.delete(key)
    return shared


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_fits_and_the_browser_has_nothing_to_complain_about(
    site: Site, browser: Browser, width: int, scheme: str
) -> None:
    site.publish("refused", 3)
    site.dead(3)
    with page_of(browser, width, color_scheme=scheme) as page:
        for path in PAGES:
            answer = page.goto(site.url + path)
            assert answer is not None
            assert answer.status == 200
            assert fits(page), path
            assert page.locator("h1").count() == 1
        page.goto(f"{site.url}dead")
        page.locator("table.pick tbody a").first.click()
        page.get_by_role("link", name="Show payload").click()
        expect(page.locator("pre").first).to_contain_text('"number"')
        assert fits(page)


def test_a_letter_is_replayed_by_hand_and_by_keyboard(site: Site, browser: Browser) -> None:
    site.publish("refused", 1)
    site.dead(1)
    with page_of(browser) as page:
        page.goto(site.url)
        page.get_by_role("link", name="PermanentError").first.click()
        page.locator("table.pick tbody a").first.press("Enter")
        page.get_by_role("button", name="Replay").press("Enter")
        expect(page.locator(".stats")).to_contain_text("Replayed")
        expect(page.locator(".stats dd").first).to_have_text("1")
        page.keyboard.press("Control+k")
        expect(page.get_by_role("searchbox")).to_be_focused()
    site.dead(1)  # refused again


def test_a_selection_and_all_that_match_are_purged_after_a_preview(
    site: Site, browser: Browser
) -> None:
    site.publish("refused", 5)
    site.dead(5)
    with page_of(browser) as page:
        page.goto(f"{site.url}dead")
        page.locator(".pick input[name=id]").nth(0).check()
        page.locator(".pick input[name=id]").nth(1).check()
        page.get_by_role("button", name="Purge…").click()
        expect(page.locator("h1")).to_have_text("Purge: preview")
        assert site.project.redis.xlen("orders:dlq") == 5
        page.get_by_role("button", name="Delete 2 for good").click()
        expect(page.locator(".stats")).to_contain_text("Purged")
        site.dead(3)
        page.goto(f"{site.url}dead?error=refused")
        page.get_by_role("button", name="Purge…").click()
        page.get_by_role("button", name="Delete 3 for good").click()
        expect(page.locator(".stats dd").first).to_have_text("3")
    site.dead(0)


def test_a_job_is_run_now_and_another_cancelled(site: Site, browser: Browser) -> None:
    for job_id in ("first", "second"):
        done = site.project.run("enqueue", "add", "1", "2", "--in", "1h", "--id", job_id)
        assert done.returncode == 0, done.stderr
    with page_of(browser) as page:
        page.goto(f"{site.url}jobs?state=scheduled")
        page.locator("tr", has_text="first").get_by_role("link").click()
        page.get_by_role("button", name="Run now").click()
        expect(page.get_by_role("status").last).to_contain_text("is due now")
        page.goto(f"{site.url}find?id=second")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".facts")).to_contain_text("finished, failed")
    until(lambda: site.project.redis.exists("arq:result:first"), "a result")


def test_two_browsers_are_updated_live_until_one_pauses(site: Site, browser: Browser) -> None:
    with page_of(browser) as one, page_of(browser, 390) as other:
        for page in (one, other):
            page.goto(site.url)
            expect(page.locator("#nav .count.bad")).to_have_count(0)
        other.get_by_role("button", name="Live: pause").click()
        site.publish("refused", 2)
        expect(one.locator("#nav .count.bad")).to_have_text("2", timeout=20_000)
        expect(one.locator("#part")).to_contain_text("PermanentError")
        assert other.locator("#nav .count.bad").count() == 0
        other.get_by_role("button", name="Paused: go on").click()
        expect(other.locator("#nav .count.bad")).to_have_text("2", timeout=20_000)


def test_it_works_without_a_script(site: Site, browser: Browser) -> None:
    site.publish("refused", 2)
    site.dead(2)
    with page_of(browser, java_script_enabled=False) as page:
        page.goto(f"{site.url}dead")
        page.get_by_role("button", name="Purge…").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")
        page.get_by_label("all 2 that match").check()  # without a filter, nothing is chosen
        page.get_by_role("button", name="Purge…").click()
        page.get_by_role("button", name="Delete 2 for good").click()
        page.reload()
        expect(page.locator(".stats dd").first).to_have_text("2")
        expect(page.locator("#live")).to_be_hidden()
    site.dead(0)


@pytest.fixture
def elsewhere(site: Site) -> Iterator[str]:
    """A page of another site whose form goes to the console."""
    form = (
        f'<form method="post" action="{site.url}operations"><input name="action" value="purge">'
        "<button>Win</button></form>"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(form.encode())

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as attacker:
        threading.Thread(target=attacker.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{attacker.server_port}/"
        attacker.shutdown()


def test_a_form_of_another_site_changes_nothing(
    site: Site, browser: Browser, elsewhere: str
) -> None:
    site.publish("refused", 2)
    site.dead(2)
    context = browser.new_context()
    page = context.new_page()
    page.goto(elsewhere)
    page.get_by_role("button", name="Win").click()
    expect(page.locator("body")).to_contain_text("another site may have caused it")
    context.close()
    assert site.project.redis.xlen("orders:dlq") == 2


def test_it_works_below_the_prefix_of_another_application(site: Site, browser: Browser) -> None:
    config = Config(redis_dsn=SecretStr(site.project.server.dsn))
    console = make_console(settings_of(config), Access(allow_changes=True))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await console.state.site.close()

    app = Starlette(routes=[Mount("/ops/worker", console)], lifespan=lifespan)
    options: Any = {"loop": "asyncio", "log_config": None, "timeout_graceful_shutdown": 2}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "a server")
    port = cast("Any", server.servers[0].sockets[0]).getsockname()[1]
    site.publish("refused", 1)
    site.dead(1)
    try:
        with page_of(browser) as page:
            page.goto(f"http://127.0.0.1:{port}/ops/worker/")
            page.get_by_role("link", name="Dead letters").click()
            page.locator("table.pick tbody a").first.click()
            page.get_by_role("button", name="Purge…").click()
            page.get_by_role("button", name="Delete 1 for good").click()
            expect(page.locator(".stats dd").first).to_have_text("1")
            page.goto(f"http://127.0.0.1:{port}/ops/worker/")
            site.publish("refused", 1)
            expect(page.locator("#nav .count.bad")).to_have_text("1", timeout=20_000)
    finally:
        server.should_exit = True
        thread.join(30)


def test_a_token_is_asked_for_like_a_password(site: Site, browser: Browser) -> None:
    arguments = ("console", "--port", "0", "--host", "0.0.0.0", "--allow-host", "127.0.0.1")
    refused = site.project.run(*arguments)
    assert (refused.returncode, "WORKER_CONSOLE_TOKEN" in refused.stderr) == (1, True)
    started = site.project.start(*arguments, WORKER_CONSOLE_TOKEN="s3cret")
    address = site.address_of(started).replace("0.0.0.0", "127.0.0.1")
    login: Any = {"username": "ann", "password": "s3cret"}
    with page_of(browser, http_credentials=login) as page:
        page.goto(address)
        expect(page.locator(".about")).to_contain_text("read-only ann")
    assert httpx.get(address).status_code == 401
