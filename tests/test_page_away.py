"""The page while nobody answers it, or no longer wants to: it says so, and goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_servers import gateway
from nginx_server import free_port
from page_browser import Visit, chromium
from playwright.sync_api import Browser
from test_server_process import serving

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.config import Settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    return open_keys(Settings(data_dir=tmp_path / "data"))


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Visit]:
    """The page, where what could not be asked is expected, and an exception of its script is not."""
    context = browser.new_context(locale="en-US")
    visit = Visit(context.new_page())
    thrown: list[str] = []
    visit.page.on("pageerror", lambda error: thrown.append(str(error)))
    visit.page.goto(url, wait_until="load")
    yield visit
    context.close()
    assert thrown == []


def test_what_could_not_be_done_is_never_said_to_be_done(
    browser: Browser, keys: KeyRing, tmp_path: Path
) -> None:
    with (
        serving(data_dir=tmp_path / "data") as (process, client),
        visiting(browser, client.url) as visit,
    ):
        visit.sign_in(keys.create("acme", role="admin").api_key)
        visit.figures(1)
        process.kill()
        page = visit.page
        page.locator("#state", has_text="connection lost").wait_for()
        said = page.locator("#admin-state")
        page.click("#clear")
        page.click("#sure-yes")
        page.locator("#admin-state", has_text="The service does not answer.").wait_for()
        page.evaluate("document.querySelector('#admin-state').textContent = ''")
        page.click("#pause")
        page.locator("#admin-state", has_text="The service does not answer.").wait_for()
        assert said.inner_text() == "The service does not answer."
        page.click("#sign-out")
        assert page.locator("#inside").is_visible()  # the cookie is there still


def test_a_revoked_key_asks_for_another_and_says_why(
    browser: Browser, keys: KeyRing, tmp_path: Path
) -> None:
    with (
        serving(data_dir=tmp_path / "data") as (_, client),
        visiting(browser, client.url) as visit,
    ):
        made = keys.create("acme")
        visit.sign_in(made.api_key)
        keys.revoke(made.key.key_id)
        page = visit.page
        page.fill("#query", "bread")
        while page.locator("#inside").is_visible():  # the service looks once a second
            page.click("#write [type=submit]")
            page.locator("#write [type=submit]:not([disabled]), #inside[hidden]").first.wait_for(
                state="attached", timeout=120_000
            )
        page.locator("#sign-in-error", has_text="The session has ended.").wait_for()


def test_figures_come_again_through_a_gateway_whose_service_was_away(
    browser: Browser, keys: KeyRing, tmp_path: Path
) -> None:
    port = free_port()
    systems = {"bul": {"url": f"http://127.0.0.1:{port}", "open_seconds": 0.1}}
    data = tmp_path / "data"
    with gateway(tmp_path, systems) as gate, visiting(browser, gate.url) as visit:
        with serving("--port", str(port), data_dir=data):
            visit.sign_in(keys.create("acme").api_key)
            visit.figures(1)
            state = visit.page.locator("#state")
            state.filter(has_text="live").wait_for()
        state.filter(has_text="connection lost").wait_for()
        with visit.page.expect_response(lambda answer: answer.status == 502, timeout=60_000):
            pass  # which an event stream does not try again by itself
        with serving("--port", str(port), data_dir=data):
            state.filter(has_text="live").wait_for(timeout=60_000)
            assert visit.page.locator("#inside").is_visible()
        visit.page.close()
