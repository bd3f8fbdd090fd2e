"""Links lead where the client can follow them, whatever path lies before ours, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bul_fakes import until
from test_server_gate import Site, site

from blatam_kv.gateway.headers import forwarded_for
from blatam_kv.server.prefix import is_path

HERE, ELSEWHERE = ("127.0.0.0/8",), ("10.0.0.0/8",)


@pytest.fixture
def behind() -> Iterator[Site]:
    """A service that believes who asks it."""
    with site(proxies=HERE) as found:
        yield found


def links(found: object) -> list[str]:
    """Everything that an answer calls a path of ours."""
    if isinstance(found, dict):
        own = [found["href"]] if "href" in found else []
        own += list(found["links"].values()) if "links" in found else []
        return own + [link for value in found.values() for link in links(value)]
    return [link for value in found for link in links(value)] if isinstance(found, list) else []


def told(bul: Site, before: str = "", **headers: str) -> set[str]:
    """The first parts of all links and Locations that requests lead to, without the path of ours."""
    browser = bul.browser
    browser.key = bul.keys.create("acme", role="admin").api_key
    options: dict[str, Any] = {"headers": headers}
    asked = browser.post(f"{before}/query", json={"query": "bread"}, **options)
    task = asked.json()["task_id"]
    until(lambda: browser.get(f"/task/{task}/status").json()["status"] == "completed")
    document = browser.get(f"/task/{task}/status").json()["documents"][0]["document_id"]
    until(lambda: browser.get(f"/documents/{document}").status_code == 200)
    batch = browser.post(f"{before}/api/batch", json={"documents": [{"query": "b"}]}, **options)
    answers = [asked, batch]
    for path in (
        *(f"/task/{task}/status", f"/task/{task}/documents", "/tasks", "/documents"),
        *(f"/documents/{document}", "/search?q=about", f"/api/batch/{batch.json()['batch_id']}"),
    ):
        answers.append(browser.get(before + path, **options))
    events = browser.get(f"{before}/task/{task}/events", **options).text
    found = [answer.headers["location"] for answer in answers if "location" in answer.headers]
    assert len(found) == 2
    for answer in answers:
        assert answer.status_code < 300, answer.text
        assert links(answer.json()), answer.request.url
        found += links(answer.json())
    found.append(events.partition('"href":"')[2].partition('"')[0])
    starts = ("/task/", "/documents/", "/api/batch/")
    return {link.partition(next(each for each in starts if each in link))[0] for link in found}


def test_without_anybody_before_us_paths_are_ours(behind: Site) -> None:
    assert told(behind) == {""}


def test_a_trusted_proxy_says_what_it_took_off(behind: Site) -> None:
    assert told(behind, **{"X-Forwarded-Prefix": "/docs/api/"}) == {"/docs/api"}


def test_nobody_else_can_say_so() -> None:
    for proxies in ((), ELSEWHERE):
        with site(proxies=proxies) as bul:
            assert told(bul, **{"X-Forwarded-Prefix": "/evil"}) == {""}


def test_the_path_that_a_gateway_leaves_on_is_part_of_them(behind: Site) -> None:
    assert told(behind, "/api/v1/bul") == {"/api/v1/bul"}
    both = told(behind, "/api/v1/bul", **{"X-Forwarded-Prefix": "/outer"})
    assert both == {"/outer/api/v1/bul"}


def test_the_page_asks_below_the_same_path(behind: Site) -> None:
    headers = {"Accept": "text/html", "X-Forwarded-Prefix": "/docs"}
    text = behind.browser.get("/", headers=headers).text
    assert 'data-base="/docs"' in text
    assert 'href="/docs/metrics"' in text
    assert 'data-base=""' in behind.browser.get("/", headers={"Accept": "text/html"}).text


@pytest.mark.parametrize("path", ["/a", "/a/b.c", "/api/v1/bul", "/a_b~c-d", "/..a", "/a.../b"])
def test_paths(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//evil.example", "/a//b", "a", "https://evil.example", "/a/../b", "/..", "/."),
        *("/a?b", "/a#b", "/a b", "/a%2f", "/a\\b", "/a\n", '/a"b', "/á", "/" + 200 * "a", "/a/"),
    ],
)
def test_what_is_no_path_is_not_believed_of_anybody(behind: Site, path: str) -> None:
    assert not is_path(path)
    if path.isascii() and "\n" not in path and path not in ("", "/", "/a/"):
        headers = {"X-Forwarded-Prefix": path}
        answer = behind.browser.get("/", headers={"Accept": "text/html", **headers})
        assert 'data-base=""' in answer.text


def test_two_of_them_are_none() -> None:
    given = [(b"x-forwarded-prefix", b"/a"), (b"x-forwarded-prefix", b"/b")]
    told = dict(
        forwarded_for(given, address="10.0.0.1", scheme="http", host=b"h", taken_off=b"/api")
    )
    assert told[b"x-forwarded-prefix"] == b"/api"
    with site(proxies=HERE) as bul:
        headers = [("Accept", "text/html"), ("X-Forwarded-Prefix", "/a")]
        text = bul.browser.get("/", headers=[*headers, ("X-Forwarded-Prefix", "/b")]).text
        assert 'data-base=""' in text
