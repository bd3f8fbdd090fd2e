"""The page in a real browser: what it shows is what /metrics has, what it writes is a document, and
whoever cannot see it, use a mouse or read English can use it too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from gateway_servers import gateway
from page_browser import Visit, chromium, visiting
from playwright.sync_api import Browser
from test_server_process import completed, serving

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.client import Client
from blatam_kv.config import Settings

FOLDER = Path(__file__).resolve().parent.parent / "python" / "blatam_kv" / "server" / "page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def bul(folder: Path) -> Iterator[Client]:
    with serving(data_dir=folder) as (process, client):
        yield client
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


@pytest.fixture(scope="module")
def keys(bul: Client, folder: Path) -> KeyRing:
    return open_keys(Settings(data_dir=folder))


def ask(client: Client, query: str, **fields: object) -> str:
    reply = client.request("POST", "/query", {"query": query, "max_length": 40, **fields})
    task: str = reply.json("task_id")["task_id"]
    return task


def wait_for(client: Client, task: str) -> None:
    assert completed(client, task)


def metrics(client: Client) -> dict[str, float]:
    text = client.request("GET", "/metrics").content.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def quantile(q: float, samples: dict[str, float]) -> float:
    """histogram_quantile() of Prometheus, written out."""
    buckets = sorted(
        (float(le.replace("+Inf", "inf")), value)
        for name, value in samples.items()
        for le in re.findall(r'kv_cache_latency_seconds_bucket{le="([^"]+)"}', name)
    )
    rank, least, below = q * buckets[-1][1], 0.0, 0.0
    for most, cumulated in buckets:
        if cumulated >= rank:
            if most == float("inf"):
                return least
            return least + (most - least) * (rank - below) / (cumulated - below)
        least, below = most, cumulated
    raise AssertionError


# ---- figures ------------------------------------------------------------------------------------


def test_each_chart_shows_the_numbers_that_metrics_has(browser: Browser) -> None:
    # Of a service that nobody has asked before: what a chart shows is of its last minute.
    with serving() as (_, bul), visiting(browser, bul.url) as visit:
        visit.figures(1)
        wait_for(bul, ask(bul, "Plan de negocio"))
        for _ in range(9):
            ask(bul, "Plan de negocio")
        bul.request("POST", "/processor/stop")
        waiting = [ask(bul, f"Informe {priority}", priority=priority) for priority in (0, 2, 2, 4)]
        with Client(bul.url) as nobody:
            assert nobody.request("GET", "/stats").status == 401  # one refused
        found = metrics(bul)
        refused = sum(
            value for name, value in found.items() if name.startswith("bul_rejected_total")
        )
        assert refused >= 1
        visit.until(lambda: visit.chart("evicted") == [0, refused], "what was done last is shown")
        hits = found['kv_cache_requests_total{status="hit",tier="memory"}']
        misses = sum(
            value
            for name, value in found.items()
            if name.startswith("kv_cache_requests_total") and "hit" not in name
        )
        assert visit.chart("hit") == [pytest.approx(hits / (hits + misses))]
        assert visit.chart("latency") == [
            pytest.approx(quantile(q, found)) for q in (0.5, 0.95, 0.99)
        ]
        assert visit.chart("queue") == [
            found[f'bul_queue_depth{{priority="{priority}"}}'] for priority in range(5)
        ]
        assert visit.chart("queue") == [1, 0, 1, 0, 1]  # the two that ask the same are one
        assert visit.chart("memory") == [
            found["kv_cache_memory_usage_bytes"],
            found["kv_blocks_memory_usage_bytes"],
        ]
        policies = sorted(re.findall(r'kv_cache_policy_leader{policy="(\w+)"}', "\n".join(found)))
        assert visit.chart("shadows") == [
            found[f'kv_cache_shadow_hit_ratio{{policy="{name}"}}'] for name in policies
        ]
        (rate,) = visit.chart("rate")
        assert rate is not None
        page = visit.page
        count = found["kv_cache_latency_seconds_count"]
        assert page.locator("#n-rate").inner_text().startswith(f"{count:.0f} in all")
        (leader,) = (
            name for name in policies if found[f'kv_cache_policy_leader{{policy="{name}"}}']
        )
        assert page.locator("#v-leader").inner_text() == leader
        places = {
            tuple(re.findall(r'"(\w+)"', name))
            for name in found
            if name.startswith("kv_cache_size_bytes")
        }
        assert page.locator("#tiers tr").count() == len(places) > 0
        bul.request("POST", "/processor/start")
        for task in waiting:
            wait_for(bul, task)


def test_axes_are_there_before_anything_has_happened(bul: Client, browser: Browser) -> None:
    with visiting(browser, bul.url, java_script_enabled=True) as visit:
        charts = visit.page.locator("svg.chart")
        assert charts.count() == 8
        for number in range(8):
            chart = charts.nth(number)
            assert chart.locator(".axis").count() == 1
            assert chart.locator("text").count() >= 4
            assert chart.get_attribute("role") == "img"
            assert chart.get_attribute("aria-label")


def test_before_signing_in_nothing_is_asked_that_would_be_refused(
    bul: Client, browser: Browser
) -> None:
    with visiting(browser, bul.url) as visit:
        visit.figures(2)
        paths = {request.url.removeprefix(bul.url) for request in visit.requests}
        assert {path for path in paths if not path.startswith("/page/")} == {
            "/",
            "/api/v1/events",
            "/api/v1/session",
        }


def test_it_is_small_and_allows_nothing_inline(bul: Client, browser: Browser) -> None:
    with visiting(browser, bul.url) as visit:
        visit.figures(1)
        sizes = [
            int(response.headers.get("content-length", 0))
            for response in visit.responses
            if "event-stream" not in response.headers.get("content-type", "")
        ]
        assert 5_000 < sum(sizes) < 150_000
        policy = visit.responses[0].headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not visit.page.locator("[style], [onclick], script:not([src])").count()


NODES = """async ([nodes, redis, listening]) => {
  const { draw } = await import("/page/places.js");
  const figures = { at: 100_000, all: () => [], value: () => 0 };
  draw(figures, { version: "1", writers: 2 }, { nodes, database: true, redis, listening });
  const rows = [...document.querySelectorAll("#nodes tr")];
  return [rows.map((row) => [...row.cells].map((cell) => cell.textContent)), document.querySelector("#nodes-shared").textContent];
}"""


def test_all_nodes_are_shown_with_state_and_age(bul: Client, browser: Browser) -> None:
    nodes = [
        {"name": "0123456789", "since": 100_000 - 90_000, "unfinished": 0, "this": False},
        {"name": "fedcba9876", "since": 100_000 - 7_300, "unfinished": 12, "this": True},
        {"name": "deadbeef00", "since": None, "unfinished": 3, "this": False},
    ]
    with visiting(browser, bul.url) as visit:
        visit.figures(1)
        page = visit.page
        page.locator("#nodes tr", has_text="this node").locator(".good").wait_for()
        page.locator("#nodes-shared", has_text="shares neither").wait_for()
        assert page.evaluate(NODES, [nodes, True, 2]) == [
            [
                ["01234567", "well", "1 d", "0"],
                ["this node", "well", "2 h", "12"],
                ["deadbeef", "gone", "–", "3"],
            ],
            "2 nodes hear one another through Redis.",
        ]
        assert page.evaluate(NODES, [None, True, None]) == [
            [["The database does not answer."]],
            "Redis does not answer: each node works alone.",
        ]


# ---- documents ----------------------------------------------------------------------------------


# The lengths of all texts that the paper has while it is being written, however soon the next one comes.
GROWING = """() => {
  const paper = document.getElementById("paper");
  window.grown = [];
  new MutationObserver(() => {
    if (paper.matches(".writing:has(h4)")) grown.push(paper.textContent.length);
  }).observe(paper, { childList: true, attributes: true });
}"""


def test_the_form_writes_a_document_and_shows_it_as_it_grows(
    bul: Client, browser: Browser, keys: KeyRing
) -> None:
    made = keys.create("form")
    with visiting(browser, bul.url) as visit:
        page = visit.page
        visit.sign_in(made.api_key)
        assert page.input_value("#key") == ""
        assert page.locator("#recent").inner_text() == "No documents yet."
        assert page.locator("#admin").is_hidden()  # a writer is no administrator
        page.fill("#query", "Plan de contenidos para una librería infantil")
        page.fill("[name=company_name]", "Cuentos del Faro")
        page.evaluate(GROWING)
        page.click("#write [type=submit]")
        page.wait_for_selector("#downloads:not([hidden])", timeout=120_000)
        whole = page.locator("#paper").inner_text()
        # Once at least, and often where the browser keeps up with the model.
        assert page.evaluate("grown")
        assert "Cuentos del Faro" in whole
        assert page.locator("#recent .title").count() == 1
        for link in page.locator("#downloads a").all():
            href = link.get_attribute("href")
            answer = page.request.get(bul.url + str(href))
            assert answer.ok
            assert "attachment" in answer.headers["content-disposition"]
        page.click("#recent button")
        page.wait_for_selector("#preview[open]")
        assert page.locator("#preview-text").inner_text() == whole
        page.keyboard.press("Escape")
        page.click("#write [type=submit]")
        page.wait_for_selector("#downloads:not([hidden])")
        assert page.locator("#write-state").inner_text().startswith("from the cache")
        page.click("#sign-out")
        page.wait_for_selector("#sign-in:not([hidden])")
        assert page.request.get(f"{bul.url}/documents").status == 401


SHOW = """async (text) => {
  const { show } = await import("/page/markdown.js");
  const article = document.createElement("article");
  show(article, text);
  return article.innerHTML;
}"""


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# A\n\n## B", "<h4>A</h4><h5>B</h5>"),
        ("one\ntwo\n\nthree", "<p>one two</p><p>three</p>"),
        ("- a\n- **b** c", "<ul><li>a</li><li><strong>b</strong> c</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("a *b* `c`", "<p>a <em>b</em> <code>c</code></p>"),
        (
            "| a | b |\n|---|---|\n| 1 | 2 |",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
            "<tbody><tr><td>1</td><td>2</td></tr></tbody></table>",
        ),
        ("> so", "<blockquote><p>so</p></blockquote>"),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("**<script>**", "<p><strong>&lt;script&gt;</strong></p>"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("2 * 3 * 4 and a_b_c", "<p>2 * 3 * 4 and a_b_c</p>"),
        ("|", "<p>|</p>"),
        ("", ""),
    ],
)
def test_what_a_model_writes_is_shown_as_text(
    bul: Client, browser: Browser, markdown: str, html: str
) -> None:
    with visiting(browser, bul.url) as visit:
        assert visit.page.evaluate(SHOW, markdown) == html


def test_an_administrator_clears_pauses_and_backs_up(
    bul: Client, browser: Browser, keys: KeyRing
) -> None:
    wait_for(bul, ask(bul, "Plan de limpieza"))
    with visiting(browser, bul.url) as visit:
        page = visit.page
        visit.sign_in(keys.create("acme", role="admin").api_key)
        page.click("#pause")
        page.locator("#admin-state", has_text="Writing is paused.").wait_for()
        assert bul.request("GET", "/processor/status").json()["status"] == "paused"
        page.click("#pause")
        page.locator("#admin-state", has_text="Writing goes on.").wait_for()
        assert bul.request("GET", "/processor/status").json()["status"] == "running"
        page.click("#clear")
        page.click("#sure-no")
        assert bul.request("GET", "/api/v1/kv-cache/stats").json()["entries"] > 0
        page.click("#clear")
        page.click("#sure-yes")
        page.locator("#admin-state", has_text="answers forgotten").wait_for()
        assert bul.request("GET", "/api/v1/kv-cache/stats").json()["entries"] == 0
        page.click("#backup")
        page.locator("#admin-state", has_text="Backup made.").wait_for()


def test_an_administrator_pins_answers_and_changes_the_policy(
    bul: Client, browser: Browser, keys: KeyRing
) -> None:
    made = keys.create("steering", role="admin")
    with Client(bul.url, api_key=made.api_key) as client:
        wait_for(client, ask(client, "Plan de fijación"))
        with visiting(browser, bul.url) as visit:
            page = visit.page
            visit.sign_in(made.api_key)
            page.locator("#pinned-sum", has_text="0 · 0 B of 128 MiB").wait_for()
            page.locator("#recent [data-pin]", has_text="Pin").click()
            page.locator("#admin-state", has_text="will not be evicted").wait_for()
            page.locator("#pinned-sum", has_text=re.compile(r"^1 · [\d.]+ (KiB|B) of")).wait_for()
            shown = client.request("GET", "/cache/pins").json()
            assert page.locator("#pinned .title").inner_text() == shown["pins"][0]["title"]
            page.locator("#recent [data-pin]", has_text="Unpin").wait_for()
            page.click("#lang-es")
            page.locator("#admin-state", has_text="no saldrá de la caché").wait_for()
            page.locator("#pinned button", has_text="Soltar").click()
            page.locator("#pinned-sum", has_text="0 · 0 B de").wait_for()
            assert client.request("GET", "/cache/pins").json()["pinned"] == 0
            page.click("#lang-en")
            assert page.locator("#policy option").count() == 12
            assert page.input_value("#policy") == "adaptive"
            page.select_option("#policy", "lfu")
            page.click("#steer [type=submit]")
            page.locator("#admin-state", has_text="lfu decides now.").wait_for()
            assert client.request("GET", "/api/v1/kv-cache/policy").json()["policy"] == "lfu"
            page.locator("#v-leader", has_text="lfu").wait_for()
            page.reload()  # the session goes on
            page.locator("#policy option").first.wait_for(state="attached")
            assert page.input_value("#policy") == "lfu"
            page.select_option("#policy", "adaptive")
            page.click("#steer [type=submit]")
            page.locator("#admin-state", has_text="adaptive decides now.").wait_for()


def test_a_bad_key_is_answered_in_words(bul: Client, browser: Browser) -> None:
    with visiting(browser, bul.url) as visit:
        visit.page.fill("#key", "bkv_wrong")
        visit.page.press("#key", "Enter")
        visit.page.locator("#sign-in-error", has_text="opens nothing").wait_for()
        # The browser notes the 401 that was asked for.
        assert len(visit.complaints) == 1
        assert "401" in visit.complaints.pop()
        visit.responses = [each for each in visit.responses if each.status != 401]


# ---- for everyone -------------------------------------------------------------------------------


def judged(visit: Visit, where: str) -> None:
    found = Axe().run(visit.page)
    assert found.violations_count == 0, f"{where}\n{found.generate_report()}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_the_way_of_assistive_technology(
    bul: Client, browser: Browser, keys: KeyRing, scheme: str, width: int
) -> None:
    wait_for(bul, ask(bul, "Plan de negocio"))
    size = {"width": width, "height": 800}
    with visiting(browser, bul.url, color_scheme=scheme, viewport=size) as visit:
        visit.figures(1)
        judged(visit, "signed out")
        visit.sign_in(keys.create("access", role="admin").api_key)
        visit.page.click("#lang-es")
        visit.page.fill("#query", "Plan de accesibilidad")
        visit.page.click("#write [type=submit]")
        visit.page.wait_for_selector("#downloads:not([hidden])", timeout=120_000)
        judged(visit, "signed in, in Spanish, with a document")
        visit.page.click("#recent button")
        visit.page.wait_for_selector("#preview[open]")
        judged(visit, "with a dialog open")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert visit.page.evaluate(overflow) <= 0


def test_the_keyboard_alone_reaches_everything(
    bul: Client, browser: Browser, keys: KeyRing
) -> None:
    with visiting(browser, bul.url) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        visit.sign_in(keys.create("acme", role="admin").api_key)
        page.evaluate("document.body.focus()")
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
        wanted = {"lang-es", "theme", "sign-out", "query", "company_name", "language", "style"}
        assert wanted | {"priority", "pause", "backup", "clear", "policy"} <= reached


def test_it_speaks_both_languages_and_remembers_which(bul: Client, browser: Browser) -> None:
    with visiting(browser, bul.url, locale="es-ES") as visit:
        page = visit.page
        assert page.locator("html").get_attribute("lang") == "es"
        assert page.locator("h2").first.inner_text().lower() == "caché"
        page.click("#lang-en")
        assert page.locator("h2").first.inner_text().lower() == "cache"
        page.click("#theme")
        page.reload()
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("html").get_attribute("data-theme") == "light"


def test_every_word_of_the_page_is_there_in_spanish() -> None:
    html = (FOLDER / "index.html").read_text()
    scripts = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    words = (FOLDER / "words.js").read_text()
    spanish = set(re.findall(r"(\w+): \"", words.partition("const ENGLISH")[0]))
    english = set(re.findall(r"(\w+): \"", words.partition("const ENGLISH")[2]))
    marked = set(re.findall(r'data-(?:t|label)="(\w+)"', html))
    said = set(re.findall(r"(?<![\w.])(?:t|nothing)\(\"(\w+)\"\)", scripts))
    said |= set(re.findall(r'say\((?:by\("[\w-]+"\)|\w+), "(\w+)"\)', scripts))
    assert marked | said | english <= spanish
    assert said - english <= marked


# ---- at the gateway -----------------------------------------------------------------------------


def test_the_gateway_s_page_shows_its_systems_and_opens_bul_with_a_key(
    bul: Client, browser: Browser, keys: KeyRing, folder: Path, tmp_path: Path
) -> None:
    systems = {"bul": {"url": bul.url}, "gamma": {"url": "http://127.0.0.1:9"}}
    with gateway(tmp_path, systems) as gate, visiting(browser, gate.url) as visit:
        page = visit.page
        page.locator("#systems tr", has_text="bul").locator(".good").wait_for()
        page.locator("#systems tr", has_text="gamma").locator(".bad").wait_for()
        assert page.locator("#closed").is_visible()
        assert "/api/v1/bul/api/v1/events" not in {
            request.url.removeprefix(gate.url) for request in visit.requests
        }
        visit.sign_in(keys.create("through").api_key)
        visit.figures(1)
        assert page.locator("#state").inner_text() == "live"
        page.fill("#query", "Plan de negocio")
        page.click("#write [type=submit]")
        page.wait_for_selector("#downloads:not([hidden])", timeout=120_000)
        href = page.locator("#downloads a").first.get_attribute("href")
        assert page.request.get(gate.url + str(href)).ok
        page.close()
