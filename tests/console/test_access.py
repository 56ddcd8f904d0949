"""Who may look and change: refused by default, with the reason."""

import logging
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from consolekit import ORIGIN, ConfigFor, browsing, settings_of
from workerbase.console import Access, make_console
from workerbase.console.guard import HEADERS
from workerbase.errors import ConfigError
from workerbase.testing import Server


@pytest.fixture
def settings(server: Server, config_for: ConfigFor) -> Any:
    return settings_of(config_for(server))


def client_at(settings: Any, access: Access, peer: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_console(settings, access), client=(peer, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8484", 200), ("127.0.0.1", 200), ("[::1]:8484", 200), ("LOCALHOST", 200),
        ("ops.example.com", 200), ("evil.example.com", 421), ("", 421),
        ("localhost.evil.com:8484", 421), ("127.0.0.1.evil.com", 421),
    ],
)  # fmt: skip
async def test_a_name_that_was_not_given_to_the_console_is_refused(
    settings: Any, host: str, status: int
) -> None:
    async with browsing(settings, Access(hosts=["ops.example.com"])) as client:
        answer = await client.get("/catalogue", headers={"Host": host})
    assert answer.status_code == status
    assert ("--allow-host" in answer.text) is (status == 421)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", None])
async def test_a_change_that_another_site_may_have_caused_is_refused(
    settings: Any, site: str | None
) -> None:
    async with browsing(settings) as client:
        del client.headers["Sec-Fetch-Site"]
        headers = {"Sec-Fetch-Site": site} if site else {}
        for path in ("/operations", "/jobs", "/api/job", "/api/dead"):
            answer = await client.post(path, headers=headers, content="action=purge")
            assert answer.status_code == 403, path
            assert "Sec-Fetch-Site" in answer.text
        assert (await client.post("/operations", headers=ORIGIN)).status_code == 400


async def test_nothing_is_changed_and_no_change_is_offered_unless_that_is_allowed(
    settings: Any,
) -> None:
    async with browsing(settings, Access()) as client:
        for path in ("/operations", "/jobs", "/api/job", "/api/dead"):
            answer = await client.post(path, content="action=purge")
            assert (answer.status_code, "--allow-changes" in answer.text) == (403, True)
        page = (await client.get("/dead")).text
        assert 'method="post"' not in page
        assert "read-only" in page


async def test_each_answer_forbids_foreign_and_inline_content(settings: Any) -> None:
    async with browsing(settings) as client:
        for path in ("/", "/static/console.css", "/no-such-page", "/api/schedule"):
            answer = await client.get(path)
            assert HEADERS.items() <= {n.title(): v for n, v in answer.headers.items()}.items()
        refused = await client.get("/", headers={"Host": "evil"})
        assert "default-src 'none'" in refused.headers["content-security-policy"]
        assert "unsafe" not in HEADERS["Content-Security-Policy"]
        page = (await client.get("/")).text
    assert "<style" not in page
    assert " style=" not in page
    assert " on" not in {part[:3] for part in page.split('"')}
    assert page.count("<script") == 1


async def test_another_machine_is_refused_where_nothing_identifies_it(settings: Any) -> None:
    async with client_at(settings, Access(), "10.0.0.7") as client:
        answer = await client.get("/")
    assert (answer.status_code, "only this machine" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("Basic " + b64encode(b"ann:s3cret").decode(), 200),
        ("Basic " + b64encode(b"ann:wrong").decode(), 401),
        ("Basic s3cret", 401), ("Bearer wrong", 401), ("Digest s3cret", 401), ("", 401),
        ("Bearer \u00e4", 401),
    ],
)  # fmt: skip
async def test_a_token_is_a_bearer_token_or_the_password_of_a_browser(
    settings: Any, authorization: str, status: int
) -> None:
    access = Access(token="s3cret")
    assert "s3cret" not in repr(access)
    async with client_at(settings, access, "10.0.0.7") as client:
        answer = await client.get(
            "/catalogue", headers={"Authorization": authorization.encode()} if authorization else {}
        )
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) is (status == 401)


@pytest.mark.parametrize(
    ("peer", "user", "status"),
    [("10.0.0.7", "ann", 200), ("10.0.1.7", "ann", 403), ("10.0.0.7", "", 403), ("unix", "x", 403)],
)
async def test_the_user_header_is_believed_of_a_trusted_proxy_only(
    settings: Any, peer: str, user: str, status: int
) -> None:
    access = Access(user_header="X-User", proxies=["10.0.0.0/24"])
    async with client_at(settings, access, peer) as client:
        answer = await client.get("/", headers={"X-User": user} if user else {})
    assert answer.status_code == status
    assert (f"<span>{user}</span>" in answer.text) is (status == 200)


async def test_an_application_may_name_the_user(settings: Any) -> None:
    def user_of(scope: Mapping[str, Any]) -> str | None:
        return "ann" if scope["path"] == "/jobs" else None

    async with client_at(settings, Access(user_of=user_of), "10.0.0.7") as client:
        assert "ann" in (await client.get("/jobs")).text
        assert (await client.get("/")).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "ops.example.com"])
def test_an_address_that_others_reach_needs_a_token_or_a_proxy(host: str) -> None:
    with pytest.raises(ConfigError, match="WORKER_CONSOLE_TOKEN"):
        Access().check_address(host)
    Access(token="x").check_address(host)
    Access(user_header="X-User").check_address(host)
    for loopback in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        Access().check_address(loopback)


def test_an_address_of_a_proxy_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'proxy\.example\.com' is not an address"):
        Access(proxies=["proxy.example.com"])


async def test_a_refusal_is_logged_on_one_line(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with browsing(settings, Access()) as client:
        await client.post("/x%0Aforged")
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.getMessage().startswith("refused POST /x\\nforged from 127.0.0.1: ")


async def test_a_large_body_is_refused(settings: Any) -> None:
    async with browsing(settings) as client:
        answer = await client.post("/operations", content=b"x" * 200_000)
    assert (answer.status_code, "at most 100,000 bytes" in answer.text) == (413, True)
