"""The card of devices in a real browser, of a node whose model runs on four."""

from __future__ import annotations

import re
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from bul_fakes import until
from device_fakes import Machine
from device_node import node
from page_browser import chromium, visiting

SEED = (0.30, 0.45, 0.20, 0.15)  # the original's picture


def test_each_device_shows_what_it_does_and_whether_it_is_given_work(tmp_path: Path) -> None:
    machine = Machine(SEED, [0.5] * 4)
    with (
        node(tmp_path, machine) as bul,
        chromium() as browser,
        visiting(browser, bul.client.url) as visit,
    ):
        cards = visit.page.locator("#gpus .device")
        cards.nth(3).wait_for()
        assert [re.sub(r"\s+", " ", text) for text in cards.all_inner_texts()] == [
            f"GPU {i} {100 * share:.0f} % 40 GiB of 80 GiB · {50 + i} °C · {200 + 10 * i} W · 0 calls, 0 tokens"
            for i, share in enumerate(SEED)
        ]
        bars = visit.page.locator("#gpus progress")
        assert [bars.nth(i).evaluate("bar => bar.value") for i in range(4)] == list(SEED)
        machine.broken = {"3"}
        visit.page.wait_for_selector("#gpus .device:nth-child(4) .bad")
        until(lambda: "out of the rotation" in cards.nth(3).inner_text())
        assert visit.page.locator("#gpus .bad").count() == 1
        visit.page.click("#lang-es")
        until(lambda: "fuera de la rotación" in cards.nth(3).inner_text())
        for theme in ("light", "dark"):
            visit.page.emulate_media(color_scheme=theme)
            problems = Axe().run(visit.page, "#gpus").response["violations"]
            assert problems == []
