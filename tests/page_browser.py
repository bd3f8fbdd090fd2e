"""A real browser on the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

# What a busy machine may take for anything that is waited for.
PATIENCE_SECONDS = 60.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Skips where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium here; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=1000 * PATIENCE_SECONDS
        )
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """An open page, and everything that it complained of or asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        self.responses: list[Response] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))
        page.on("response", lambda response: self.responses.append(response))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def figures(self, number: int = 1) -> None:
        """Wait until so many more events have been drawn."""
        wanted = self._drawn() + number
        self.until(lambda: self._drawn() >= wanted, f"{number} more events")

    def _drawn(self) -> int:
        return int(self.page.locator("body").get_attribute("data-ready") or 0)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for what the page does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < deadline, what
            self.page.wait_for_timeout(50)

    def chart(self, name: str) -> list[float | None]:
        """What a chart shows as its newest values."""
        values: list[float | None] = json.loads(
            self.page.locator(f"#chart-{name}").get_attribute("data-now") or "[]"
        )
        return values

    def sign_in(self, key: str) -> None:
        """Through the form."""
        self.page.fill("#key", key)
        self.page.press("#key", "Enter")
        self.page.wait_for_selector("#inside:not([hidden])")


@contextmanager
def visiting(browser: Browser, url: str, **options: object) -> Iterator[Visit]:
    """The page at a URL in a context of its own; at the end nothing was complained of, nothing was
    asked of anyone else, and nothing was refused."""
    options = {"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options}
    context = browser.new_context(**options)  # type: ignore[arg-type]  # its own options
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    visit = Visit(context.new_page())
    visit.page.goto(url, wait_until="load")
    yield visit
    assert visit.complaints == []
    for request in visit.requests:
        assert request.url.startswith(url), request.url
    assert [response.url for response in visit.responses if response.status >= 400] == []
    context.close()
