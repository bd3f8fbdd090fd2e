"""Sessions of the page: what begins one, what one may, and what no other site can make of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bul_fakes import Scripted
from server_browser import Browser, browsing

from blatam_kv.bul.security.sessions import SECONDS, Sessions, session_in

SESSION = "/api/v1/session"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing(Scripted()) as browser:
        yield browser


def begun(browser: Browser) -> tuple[str, str]:
    """A session's cookie and token; the browser has no key from then on."""
    answer = browser.post(SESSION)
    assert answer.status_code == 201
    browser.key = None
    return answer.headers["set-cookie"].partition(";")[0], answer.json()["csrf_token"]


def test_a_key_is_exchanged_for_a_cookie_that_scripts_and_other_sites_cannot_use(
    browser: Browser,
) -> None:
    answer = browser.post(SESSION)
    parts = {part.strip() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert parts == {"Path=/", f"Max-Age={SECONDS}", "HttpOnly", "SameSite=Strict"}
    assert answer.json()["tenant"] == "acme"
    assert browser.key is not None
    assert browser.key not in answer.text + answer.headers["set-cookie"]
    secure = browser.post(SESSION, headers={"X-Forwarded-Proto": "https"})
    assert secure.headers["set-cookie"].endswith("; Secure")


def test_a_session_reads_as_its_key_does_and_changes_only_with_its_token(browser: Browser) -> None:
    cookie, token = begun(browser)
    assert browser.get("/documents", headers={"Cookie": cookie}).status_code == 200
    query = {"json": {"query": "Plan"}}
    for headers in ({}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": f"{token}x"}):
        answer = browser.post("/query", headers={"Cookie": cookie, **headers}, **query)
        assert answer.status_code == 401, headers
    with_token = {"Cookie": cookie, "X-CSRF-Token": token}
    assert browser.post("/query", headers=with_token, **query).status_code == 202


def test_another_s_token_changes_nothing(browser: Browser) -> None:
    key = browser.key
    cookie, _ = begun(browser)
    browser.key = key
    _, other = begun(browser)
    headers = {"Cookie": cookie, "X-CSRF-Token": other}
    assert browser.post("/query", headers=headers, json={"query": "x"}).status_code == 401


def test_a_session_is_shown_and_ended(browser: Browser) -> None:
    assert browser.get(SESSION).json() == {"signed_in": False}
    cookie, token = begun(browser)
    shown = browser.get(SESSION, headers={"Cookie": cookie}).json()
    assert (shown["signed_in"], shown["csrf_token"]) == (True, token)
    assert browser.request("DELETE", SESSION, headers={"Cookie": cookie}).status_code == 401
    ended = browser.request("DELETE", SESSION, headers={"Cookie": cookie, "X-CSRF-Token": token})
    assert ended.json() == {"signed_in": False}
    assert "Max-Age=0" in ended.headers["set-cookie"]
    assert browser.get("/documents", headers={"Cookie": cookie}).status_code == 401
    assert browser.get(SESSION, headers={"Cookie": cookie}).json() == {"signed_in": False}


def test_a_session_begins_with_a_key_only(browser: Browser) -> None:
    cookie, token = begun(browser)
    assert browser.post(SESSION).status_code == 401
    headers = {"Cookie": cookie, "X-CSRF-Token": token}
    assert browser.post(SESSION, headers=headers).status_code == 401


def test_revoking_the_key_ends_its_sessions(browser: Browser) -> None:
    made = browser.keys.create("acme")
    browser.key = made.api_key
    cookie, _ = begun(browser)
    assert browser.get("/documents", headers={"Cookie": cookie}).status_code == 200
    browser.keys.revoke(made.key.key_id)
    assert browser.get("/documents", headers={"Cookie": cookie}).status_code == 401


def test_a_key_given_beside_a_session_is_the_one_that_counts(browser: Browser) -> None:
    cookie, _ = begun(browser)
    browser.key = "bkv_wrong"
    assert browser.get("/documents", headers={"Cookie": cookie}).status_code == 401


def test_a_session_may_no_more_than_its_key(browser: Browser) -> None:
    browser.key = browser.keys.create("acme", role="reader").api_key
    cookie, token = begun(browser)
    headers = {"Cookie": cookie, "X-CSRF-Token": token}
    assert browser.post("/query", headers=headers, json={"query": "x"}).status_code == 403
    assert browser.post("/api/v1/kv-cache/clear", headers=headers).status_code == 403


def test_a_session_ends_by_itself_and_cannot_be_made_up() -> None:
    now = [1000.0]
    sessions = Sessions(bytes(32), clock=lambda: now[0])
    session = sessions.begin("key1")
    assert sessions.key_of(session.token) == "key1"
    assert session.forgery_token == sessions.forgery_token(session.token)
    for at in range(0, len(session.token), 7):
        flipped = "A" if session.token[at] != "A" else "B"
        assert sessions.key_of(session.token[:at] + flipped + session.token[at + 1 :]) is None
    assert Sessions(bytes([1] * 32), clock=lambda: now[0]).key_of(session.token) is None
    for token in ("", "x", session.token + "x", session.token.replace("key1", "key2")):
        assert sessions.key_of(token) is None
    now[0] += 100
    assert sessions.seconds_left(session.token) == SECONDS - 100
    now[0] += SECONDS - 100
    assert sessions.key_of(session.token) is None
    assert sessions.seconds_left(session.token) == 0


def test_of_two_cookies_of_the_name_none_counts() -> None:
    assert session_in("a=1; blatam_kv_session=x") == "x"
    assert session_in("blatam_kv_session=x; blatam_kv_session=y") == ""
    assert session_in("other_blatam_kv_session=x") == ""
