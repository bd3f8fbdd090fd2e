"""What one request wants of the cache, in a header or in the body, on both faces; and what it is told."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bul_fakes import Scripted, running
from hypothesis import given
from hypothesis import strategies as st
from server_browser import Browser, browsing
from test_server_bul import check_problem

from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.order import place
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.storage import open_storage
from blatam_kv.bul.wishes import USUAL, CacheWishes, Wishes, cache_key, digest_of, wishes_of

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "bread"}]}


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model) as browser:
        yield browser


def query(browser: Browser, cache: Any = None, header: str = "") -> httpx.Response:
    """``POST /query``, waited for to its end."""
    body: dict[str, Any] = {"query": "bread"} | ({} if cache is None else {"cache": cache})
    response = browser.post("/query", json=body, headers={"Cache-Control": header})
    if response.status_code == 202:
        assert browser.finished(response.json()["task_id"])["status"] == "completed"
    return response


def chat(browser: Browser, cache: Any = None, header: str = "") -> httpx.Response:
    body = CHAT | ({} if cache is None else {"cache": cache})
    return browser.post("/v1/chat/completions", json=body, headers={"Cache-Control": header})


FACES = pytest.mark.parametrize("ask", [query, chat])


def is_hit(response: httpx.Response) -> bool:
    assert response.status_code in (200, 202), response.text
    return "; hit" in response.headers["cache-status"]


def grow_old(browser: Browser, seconds: float) -> None:
    """Make it as if that much time had passed, for what has been written."""
    browser.service.pipeline._clock = lambda: time.time() + seconds
    browser.service.chats._clock = lambda: time.time() + seconds


# ---- what is asked ------------------------------------------------------------------------------


@FACES
@pytest.mark.parametrize(
    ("cache", "header", "looks", "keeps"),
    [
        (None, "no-cache", False, True),
        (None, "no-store", False, False),
        ({"no-cache": True}, "", False, True),
        ({"no-store": True}, "", False, False),
        ({"no-cache": False, "no-store": False}, "", True, True),
        (None, "max-age=60, no-transform", True, True),
        ({"s-maxage": 60}, "", True, True),
        ({"ttl": 60}, "", True, True),
        (None, "max-age=soon", True, True),
    ],
)
def test_a_request_may_not_look_or_not_keep(
    model: Scripted, ask: Any, cache: Any, header: str, looks: bool, keeps: bool
) -> None:
    with browsing(model) as browser:
        assert not is_hit(ask(browser, cache, header))
        assert is_hit(ask(browser)) is keeps
        calls = len(model.calls)
        ask(browser, cache, header)
        assert (len(model.calls) == calls) is looks


@FACES
@pytest.mark.parametrize(("cache", "header"), [({"s-maxage": 2000}, ""), (None, "max-age=2000")])
def test_an_answer_that_is_too_old_is_written_anew_and_that_one_is_kept(
    browser: Browser, model: Scripted, ask: Any, cache: Any, header: str
) -> None:
    ask(browser)
    grow_old(browser, 1000)
    assert is_hit(ask(browser, cache, header))
    grow_old(browser, 2001)
    assert not is_hit(ask(browser, cache, header))
    assert len(model.calls) == 2
    assert is_hit(ask(browser, cache, header))


@FACES
def test_the_stricter_of_header_and_body_holds(browser: Browser, ask: Any) -> None:
    ask(browser)
    grow_old(browser, 5)
    assert not is_hit(ask(browser, {"s-maxage": 100}, "max-age=1"))


@FACES
def test_only_if_cached_is_504_without_one_and_the_model_is_not_asked(
    browser: Browser, model: Scripted, ask: Any
) -> None:
    missing = ask(browser, None, "only-if-cached")
    assert missing.status_code == 504
    if ask is query:
        check_problem(missing, 504, "A003", "only-if-cached")
    else:
        assert missing.json()["error"]["code"] == "gateway_timeout"
    assert model.calls == []
    ask(browser)
    assert is_hit(ask(browser, None, "only-if-cached"))
    assert ask(browser, None, "only-if-cached, no-cache").status_code == 504


@FACES
def test_an_answer_is_kept_for_as_long_as_its_request_said(browser: Browser, ask: Any) -> None:
    assert not is_hit(ask(browser, {"ttl": 1000}))
    again = ask(browser)
    assert is_hit(again)
    # Time passes between the two; without the wish an hour would be left.
    assert 500 < int(again.headers["cache-status"].partition("; ttl=")[2].split(";")[0]) <= 1000
    ask(browser, {"ttl": 0.001, "no-cache": True})
    time.sleep(0.002)  # the cache's clock is the machine's
    assert not is_hit(ask(browser))


@FACES
def test_a_namespace_has_answers_of_its_own(browser: Browser, model: Scripted, ask: Any) -> None:
    ask(browser)
    assert not is_hit(ask(browser, {"namespace": "draft"}))
    assert is_hit(ask(browser, {"namespace": "draft"}))
    assert not is_hit(ask(browser, {"namespace": "final"}))
    assert is_hit(ask(browser))
    assert len(model.calls) == 3


@pytest.mark.parametrize(
    "cache",
    [
        {"ttl": 0},
        {"ttl": 1e9},
        {"s-maxage": -1},
        {"namespace": ""},
        {"namespace": "a b"},
        {"namespace": "x" * 129},
        {"no-cache": "yes"},
        {"no_cache": True},
        {"use-cache": True},
        "no-cache",
    ],
)
def test_what_is_no_wish_is_named(browser: Browser, cache: Any) -> None:
    check_problem(browser.ask(query="bread", cache=cache), 422, "A002", "cache")
    assert chat(browser, cache).status_code == 400


def test_two_who_want_it_written_anew_do_not_share_one_writing(model: Scripted) -> None:
    with browsing(model, max_concurrent_tasks=2) as browser:
        asked = [browser.ask(query="bread", cache={"no-cache": True}) for _ in range(2)]
        for response in asked:
            assert "fwd=miss; key" in response.headers["cache-status"]
            browser.finished(response.json()["task_id"])
        assert len(model.calls) == 2


def test_a_task_that_is_resumed_still_does_without_the_cache(
    model: Scripted, tmp_path: Path
) -> None:
    archive = open_storage(f"sqlite:///{tmp_path / 'bul.db'}")
    with running(model, archive=archive) as service:
        first = service.enqueue(*_placed(model, {"query": "bread"}))
        while not service.task(first.id).is_finished:
            time.sleep(0.001)
        service.pause()
        waiting = service.enqueue(
            *_placed(model, {"query": "bread", "cache": {"no-cache": True, "ttl": 50.0}})
        )
    with running(model, archive=open_storage(f"sqlite:///{tmp_path / 'bul.db'}")) as service:
        while not (task := service.task(waiting.id)).is_finished:
            time.sleep(0.001)
    assert task.status == "completed"
    assert len(model.calls) == 2


def _placed(model: Scripted, fields: dict[str, Any]) -> Any:
    request = parse_request(fields)
    return place(request, model), request


# ---- what is counted ----------------------------------------------------------------------------


@FACES
def test_who_asks_not_to_look_is_counted_as_no_miss(browser: Browser, ask: Any) -> None:
    def counted() -> dict[str, str]:
        text = browser.get("/metrics").text
        return dict(re.findall(r'kv_cache_requests_total{status="(\w+)",tier="none"} (\d+)', text))

    ask(browser, None, "no-cache")
    ask(browser, {"no-store": True})
    assert counted() == {"miss": "0", "collapsed": "0", "bypass": "2"}
    ask(browser, {"namespace": "new"})
    assert counted() == {"miss": "1", "collapsed": "0", "bypass": "2"}


def test_a_stream_that_did_not_want_to_look_is_counted_as_such(browser: Browser) -> None:
    body = CHAT | {"stream": True, "cache": {"no-cache": True}}
    assert "[DONE]" in browser.post("/v1/chat/completions", json=body).text
    text = browser.get("/metrics").text
    assert 'kv_cache_requests_total{status="bypass",tier="none"} 1.0' in text


# ---- what is told -------------------------------------------------------------------------------


@FACES
def test_a_hit_tells_its_age_and_its_key(browser: Browser, ask: Any) -> None:
    key = ask(browser).headers["cache-status"].partition('key="')[2].rstrip('"')
    hit = ask(browser)
    assert 0 <= int(hit.headers["age"]) < 600
    assert hit.headers["cache-status"].endswith(f'; key="{key}"')
    assert "age" not in ask(browser, {"no-cache": True}).headers


@FACES
def test_an_answer_is_forgotten_by_its_key_within_its_tenant(browser: Browser, ask: Any) -> None:
    key = ask(browser).headers["cache-status"].partition('key="')[2].rstrip('"')
    mine, browser.key = browser.key, browser.keys.create("other").api_key
    ask(browser)
    check_problem(browser.request("DELETE", f"/cache/{key}"), 404, "A003", "no answer of yours")
    browser.key = mine
    assert is_hit(ask(browser))
    assert browser.request("DELETE", f"/cache/{key}").json() == {"deleted": True}
    assert browser.request("DELETE", f"/cache/{key}").status_code == 404
    assert not is_hit(ask(browser))
    browser.key = browser.keys.create("other").api_key
    assert is_hit(ask(browser))


def test_a_forgotten_answer_is_gone_from_the_disk_as_well(model: Scripted, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cache_persistence": True, "cache_persistence_path": tmp_path / "c"}
    with browsing(model, **settings) as browser:
        key = chat(browser).headers["cache-status"].partition('key="')[2].rstrip('"')
        assert browser.request("DELETE", f"/cache/{key}").status_code == 200
    with browsing(model, **settings) as browser:
        assert not is_hit(chat(browser, None, "max-age=1000"))


# ---- the words alone ----------------------------------------------------------------------------


def test_who_says_nothing_wants_the_usual() -> None:
    assert wishes_of(None, "") is USUAL
    assert USUAL.shared
    assert wishes_of(CacheWishes(), "max-stale=5, x") == USUAL


@given(st.text(max_size=60))
def test_any_header_is_some_wish(header: str) -> None:
    assert isinstance(wishes_of(None, header), Wishes)


@given(
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(0.1, 100),
    st.none() | st.floats(0, 100),
)
def test_wishes_written_down_are_the_same_when_read(
    look: bool, keep: bool, ttl: float | None, max_age: float | None
) -> None:
    wishes = Wishes(look=look and keep, keep=keep, ttl=ttl, max_age=max_age)
    assert wishes_of(wishes.body("n"), "") == wishes
    assert wishes.body("n").namespace == "n"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 47))
def test_a_key_is_good_for_its_own_tenant_and_unchanged_only(
    digest: bytes, salt: bytes, where: int
) -> None:
    key = cache_key(digest, salt)
    assert digest_of(key, salt) == digest
    other = bytes([salt[0] ^ 1]) + salt[1:]
    assert digest_of(key, other) is None
    content = bytearray(base64.urlsafe_b64decode(key))
    content[where] ^= 1
    assert digest_of(base64.urlsafe_b64encode(content).decode(), salt) is None


@pytest.mark.parametrize("key", ["", "x", "*" * 64, "a" * 63, "a" * 68, "ñ" * 64])
def test_what_is_no_key_names_nothing(key: str) -> None:
    assert digest_of(key, ITSELF.salt) is None
