"""Downloads: their names, conditions and ranges, beside the obvious slice of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from bul_fakes import Scripted
from hypothesis import given
from hypothesis import strategies as st
from server_browser import Browser, browsing
from starlette.requests import Request

from blatam_kv.documents.rendering import Rendered
from blatam_kv.server.files import disposition, file_reply

BORN = 1_795_564_800.25  # 2026-11-25 00:00:00 and a quarter
MODIFIED = datetime.fromtimestamp(int(BORN), UTC)
CONTENT = bytes(range(100))


def get(content: bytes = CONTENT, method: str = "GET", **headers: str) -> Any:
    scope = {
        "type": "http",
        "method": method,
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }
    rendered = Rendered("txt", "text/plain", "a.txt", content)
    return file_reply(Request(scope), rendered, BORN)


def tag() -> str:
    return str(get().headers["etag"])


def date(delta: timedelta = timedelta()) -> str:
    return format_datetime(MODIFIED + delta, usegmt=True)


# ---- conditions ---------------------------------------------------------------------------------


def test_the_same_bytes_have_the_same_tag_and_others_another() -> None:
    assert tag() == tag()
    assert get(CONTENT + b"x").headers["etag"] != tag()
    assert get().headers["last-modified"] == "Wed, 25 Nov 2026 00:00:00 GMT"
    assert get().headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": "TAG"}, 304),
        ({"if_none_match": "W/TAG"}, 304),
        ({"if_none_match": '"other", TAG'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_none_match": "nonsense"}, 200),
        ({"if_modified_since": date()}, 304),
        ({"if_modified_since": date(timedelta(seconds=1))}, 304),
        ({"if_modified_since": date(timedelta(seconds=-1))}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        # A tag that does not match is believed, whatever the date says.
        ({"if_none_match": '"other"', "if_modified_since": date()}, 200),
        ({"if_match": "TAG"}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": "W/TAG"}, 412),
        ({"if_match": '"other"'}, 412),
        ({"if_none_match": "TAG", "range": "bytes=0-1"}, 304),
    ],
)
def test_who_has_it_is_not_sent_it_again(headers: dict[str, str], status: int) -> None:
    named: Any = {name: text.replace("TAG", tag()) for name, text in headers.items()}
    response = get(**named)
    assert response.status_code == status
    assert response.body == (CONTENT if status == 200 else b"")
    assert response.headers["etag"] == tag()


@pytest.mark.parametrize("format", ["html", "docx", "pdf"])
def test_where_a_letterhead_may_change_the_bytes_only_the_tag_counts(format: str) -> None:
    scope = {"type": "http", "method": "GET", "headers": [(b"if-modified-since", date().encode())]}
    response = file_reply(Request(scope), Rendered(format, "x/y", "a", CONTENT), BORN)
    assert response.status_code == 200
    assert "last-modified" not in response.headers
    scope["headers"] = [(b"if-range", date().encode()), (b"range", b"bytes=0-0")]
    scope.pop("blatam_kv.fields")
    assert (
        file_reply(Request(scope), Rendered(format, "x/y", "a", CONTENT), BORN).status_code == 200
    )


# ---- ranges -------------------------------------------------------------------------------------


@given(st.binary(max_size=40), st.none() | st.integers(0, 60), st.none() | st.integers(0, 60))
def test_a_range_is_the_slice_of_the_whole(
    content: bytes, first: int | None, last: int | None
) -> None:
    asked = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    response = get(content, range=asked)
    numbers = range(len(content))
    if first is None and last is None:
        expected = None
    elif first is None:
        expected = list(numbers)[-last or len(content) :] if last else []
    elif last is not None and last < first:
        expected = None
    else:
        expected = [n for n in numbers if first <= n and (last is None or n <= last)]
    if expected is None:
        assert (response.status_code, response.body) == (200, content)
    elif not expected:
        assert response.status_code == 416
        assert response.headers["content-range"] == f"bytes */{len(content)}"
    else:
        assert response.status_code == 206
        assert response.body == bytes(content[n] for n in expected)
        where = f"bytes {expected[0]}-{expected[-1]}/{len(content)}"
        assert response.headers["content-range"] == where
        assert int(response.headers["content-length"]) == len(expected)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes", "", "bytes=0-1x", "bytes=-"]
)
def test_what_is_no_single_range_gets_the_whole(asked: str) -> None:
    response = get(range=asked)
    assert (response.status_code, response.body) == (200, CONTENT)
    assert response.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("TAG", 206),
        ('"other"', 200),
        ("W/TAG", 200),
        (date(), 206),
        (date(timedelta(seconds=1)), 200),
        (date(timedelta(seconds=-1)), 200),
        ("nonsense", 200),
    ],
)
def test_a_part_of_what_has_changed_is_the_whole_of_it(condition: str, status: int) -> None:
    response = get(range="bytes=0-0", if_range=condition.replace("TAG", tag()))
    assert response.status_code == status


def test_a_head_request_has_no_parts() -> None:
    assert get(method="HEAD", range="bytes=0-0").status_code == 200


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Plan.md", "Plan.md"),
        ("Política de vacaciones.pdf", "Politica de vacaciones.pdf"),
        ('a"b.md', "a_b.md"),
        ("a\\b.md", "a_b.md"),
        ("100%41.md", "100_41.md"),
        ("a\r\nX: y.md", "a__X: y.md"),
        ("Договор.md", ".md"),
        ("文書", "document"),
    ],
)
def test_a_name_is_told_twice_and_cannot_bring_headers_of_its_own(name: str, plain: str) -> None:
    told = disposition(name)
    start, _, full = told.partition("; filename*=UTF-8''")
    assert start == f'attachment; filename="{plain}"'
    assert unquote(full) == name


@given(st.text(max_size=40))
def test_any_name_can_be_sent(name: str) -> None:
    name = name.encode("utf-8", "ignore").decode()
    told = disposition(name)
    assert told.isascii()
    assert told.isprintable()
    assert told.count('"') == 2


# ---- over HTTP ----------------------------------------------------------------------------------


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing(Scripted()) as browser:
        yield browser


def downloads(browser: Browser) -> list[str]:
    task = browser.finished(browser.ask(query="bread").json()["task_id"])
    document = task["documents"][0]
    return [document["href"], f"/documents/{document['document_id']}?format=markdown&download=1"]


def test_both_ways_to_a_document_are_the_same_file(browser: Browser) -> None:
    ways = downloads(browser)
    whole = [browser.get(path) for path in ways]
    assert whole[0].content == whole[1].content
    assert whole[0].headers["etag"] == whole[1].headers["etag"]
    for path in ways:

        def ask(path: str = path, **headers: str) -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return browser.get(path, headers=named)

        assert ask(if_none_match=whole[0].headers["etag"]).status_code == 304
        part = ask(range="bytes=2-9", if_range=whole[0].headers["etag"])
        assert (part.status_code, part.content) == (206, whole[0].content[2:10])
        assert ask(range="bytes=100000-").status_code == 416
        assert whole[0].headers["content-security-policy"].startswith("sandbox")


def test_conditions_open_nothing_to_another_tenant(browser: Browser) -> None:
    path = downloads(browser)[0]
    known = browser.get(path).headers["etag"]
    browser.key = browser.keys.create("other").api_key
    for headers in ({"If-None-Match": known}, {"If-None-Match": "*"}, {"Range": "bytes=0-1"}):
        assert browser.get(path, headers=headers).status_code == 404
