"""Letterheads and their logos: what is printed, what is refused, and who sees whose."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from datetime import date
from typing import Any

import pypdf
import pytest
from bul_fakes import Faulty, Scripted
from hypothesis import given
from hypothesis import strategies as st
from pictures import JPEG, SIGNATURE, chunk, png
from server_browser import Browser, browsing

from blatam_kv.bul.press import FRESH_SECONDS, Press
from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.documents.document import Document
from blatam_kv.documents.letterhead import MAX_LOGO_BYTES, Letterhead, Logo, read_logo
from blatam_kv.documents.rendering import render
from blatam_kv.documents.styles import STYLES
from blatam_kv.documents.trial import try_letterhead
from blatam_kv.errors import InvalidRequest


def letter(logo: Logo | None, style: str = "professional") -> Document:
    return Document(
        title="Carta",
        markdown="# Carta\n\nHola.",
        language="es",
        date=date(2026, 3, 7),
        style=style,
        letterhead=Letterhead("Espiga, S. L.", ("Calle Mayor 1",), logo),
    )


# What is printed.


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("picture", [png(), JPEG], ids=["png", "jpeg"])
def test_a_logo_stands_in_every_format_with_words_for_who_cannot_see_it(
    picture: bytes, style: str
) -> None:
    document = letter(read_logo(picture), style)
    pdf = pypdf.PdfReader(io.BytesIO(render(document, "pdf").content))
    assert len(pdf.pages[0].images) == 1
    assert b"Logotipo de Espiga, S. L." in _uncompressed(pdf)
    with zipfile.ZipFile(io.BytesIO(render(document, "docx").content)) as archive:
        media = [archive.read(name) for name in archive.namelist() if "/media/" in name]
        headers = [archive.read(name).decode() for name in archive.namelist() if "header" in name]
    assert media == [picture]
    assert any('descr="Logotipo de Espiga, S. L."' in header for header in headers)
    page = render(document, "html").content.decode()
    assert f"base64,{base64.b64encode(picture).decode()}" in page
    assert 'alt="Logotipo de Espiga, S. L."' in page


def _uncompressed(pdf: pypdf.PdfReader) -> bytes:
    found: list[str] = []
    waiting: list[Any] = [pdf.trailer["/Root"]]
    seen = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, pypdf.generic.IndirectObject):
            if node.idnum in seen:
                continue
            seen.add(node.idnum)
            node = node.get_object()
        if isinstance(node, pypdf.generic.DictionaryObject):
            waiting.extend(node.raw_get(key) for key in node)
        elif isinstance(node, list):
            waiting.extend(node)
        else:
            found.append(str(node))
    return "\n".join(found).encode()


def test_hostile_words_of_a_letterhead_are_text() -> None:
    head = Letterhead('<script>"&', ("#eval(1)", "</w:t>"))
    document = Document(title="T", markdown="x", language="en", letterhead=head)
    assert "<script>" not in render(document, "html").content.decode()
    for format in ("pdf", "docx"):
        assert render(document, format).content


# What is refused.


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither a PNG nor a JPEG"),
        (b"GIF89a" + bytes(100), "neither a PNG nor a JPEG"),
        (b"MZ" + bytes(100), "neither a PNG nor a JPEG"),
        (SIGNATURE, "ends in the middle"),
        (png()[:-20], "ends in the middle"),
        (png().replace(b"IDAT", b"IDAX"), "checksum"),
        (png(claimed=(60_000, 60_000)), "60,000 by 60,000 pixels; scale it"),
        (png(claimed=(0, 10)), "has no pixels"),
        (png(claimed=(41, 20)), "other pixels than it says"),
        (png(rows=bytes(50_000_000)), "other pixels than it says"),
        (SIGNATURE + chunk(b"IHDR", bytes(5)) + chunk(b"IEND", b""), "ends in the middle"),
        (png() + bytes(MAX_LOGO_BYTES), "make it at most 524,288"),
        (JPEG[:60], "JPEG that is damaged"),
        (JPEG[:-2], "JPEG that is damaged"),
        (b"\xff\xd8\xff" + b"\xff" * 50, "JPEG that is damaged"),
        (JPEG.replace(b"\x00\x08\x00\x08", b"\xff\xff\xff\xff"), "65,535 by 65,535 pixels"),
    ],
)
def test_what_is_no_logo_is_refused_with_the_reason(content: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        read_logo(content)
    assert refused.value.field == "logo"


@given(st.binary(max_size=64), st.integers(0, 200), st.booleans())
def test_damage_is_refused_or_makes_a_whole_document(junk: bytes, at: int, jpeg: bool) -> None:
    whole = JPEG if jpeg else png()
    content = whole[:at] + junk + whole[at + len(junk) :]
    try:
        logo = read_logo(content)
        try_letterhead(Letterhead("x", (), logo))
    except InvalidRequest:
        return
    for format in ("pdf", "docx"):
        assert render(letter(logo), format).content


def test_a_letterhead_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 4"):
        Letterhead("x", ("a",) * 5)
    with pytest.raises(InvalidRequest, match="shorten it to 120"):
        Letterhead("x" * 121)
    with pytest.raises(InvalidRequest, match="one line"):
        Letterhead("x", ("a\nb",))


# Who sees whose.


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing(Scripted(), max_concurrent_tasks=1) as browser:
        yield browser


def put(browser: Browser, **fields: Any) -> Any:
    return browser.request("PUT", "/letterhead", json=fields)


def download(browser: Browser, task: str, options: str) -> bytes:
    file = browser.get(f"/task/{task}/documents?download=1&{options}")
    assert file.status_code == 200, file.text
    return file.content


def test_a_tenant_sets_sees_and_drops_its_letterhead(browser: Browser) -> None:
    assert browser.get("/letterhead").status_code == 404
    logo = base64.b64encode(png()).decode()
    made = put(browser, company="Acme", lines=["1 Main St"], logo=logo)
    assert made.status_code == 200, made.text
    assert made.json() == browser.get("/letterhead").json()
    assert made.json()["logo"] == {"format": "png", "width": 40, "height": 20, "bytes": len(png())}
    assert put(browser, company="Acme 2").json() == {"company": "Acme 2", "lines": [], "logo": None}
    assert browser.request("DELETE", "/letterhead").status_code == 204
    assert browser.request("DELETE", "/letterhead").status_code == 404


def test_a_letterhead_stands_on_its_tenants_documents_and_on_no_others(browser: Browser) -> None:
    mine = browser.ask(query="bread").json()["task_id"]
    browser.finished(mine)
    plain = download(browser, mine, "format=html")
    put(browser, company="Acme Bakeries")
    assert b"Acme Bakeries" in download(browser, mine, "format=html")
    first = browser.key
    browser.key = browser.keys.create("globex", role="admin").api_key
    assert browser.get("/letterhead").status_code == 404
    theirs = browser.ask(query="bread").json()["task_id"]
    browser.finished(theirs)
    assert b"Acme Bakeries" not in download(browser, theirs, "format=html")
    put(browser, company="Globex")
    browser.key = first
    assert b"Globex" not in download(browser, mine, "format=html")
    browser.request("DELETE", "/letterhead")
    assert download(browser, mine, "format=html") == plain


def test_a_document_may_be_asked_for_without_letterhead_and_in_a_style(browser: Browser) -> None:
    put(browser, company="Acme Bakeries")
    asked = browser.ask(query="bread", format="html", letterhead=False, style="modern")
    browser.finished(asked.json()["task_id"])
    modern = download(browser, asked.json()["task_id"], "format=html")
    assert b"Acme Bakeries" not in modern
    usual = browser.ask(query="bread", format="html").json()["task_id"]
    assert download(browser, usual, "format=html") != modern
    changed = download(browser, asked.json()["task_id"], "format=html&style=creative")
    assert changed != modern
    browser.service._recorder.flush()
    row = browser.service.archive.task(asked.json()["task_id"], tenant="acme")
    assert row is not None
    assert (row.look.style, row.look.letterhead) == ("modern", False)


@pytest.mark.parametrize(
    ("fields", "field", "hint"),
    [
        ({}, "company", "is required"),
        ({"company": " "}, "company", "is empty"),
        ({"company": "a", "logo": "%%%"}, "logo", "not base64"),
        ({"company": "a", "logo": base64.b64encode(b"MZ").decode()}, "logo", "neither a PNG"),
        ({"company": "a", "lines": ["x"] * 5}, "lines", "4 items"),
        ({"company": "a", "colour": "red"}, "colour", "not a known field"),
    ],
)
def test_a_bad_letterhead_is_422_with_its_field(
    browser: Browser, fields: dict[str, Any], field: str, hint: str
) -> None:
    refused = put(browser, **fields)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert hint in refused.json()["errors"][0]["detail"]
    assert browser.get("/letterhead").status_code == 404


def test_a_known_letterhead_stands_while_the_database_is_away(browser: Browser) -> None:
    faulty, now = Faulty(), [0.0]
    press = Press(lambda: faulty, browser.service.metrics, clock=lambda: now[0])  # type: ignore[arg-type,return-value]
    press.keep_letterhead(Letterhead("Acme"), tenant="a")
    faulty.archive.letterheads.keep("a", Letterhead("Changed elsewhere"))
    assert press.letterhead(tenant="a") == Letterhead("Acme")
    now[0] += FRESH_SECONDS
    faulty.broken = True
    assert press.letterhead(tenant="a") == Letterhead("Acme")
    with pytest.raises(StorageUnavailable):
        press.letterhead(tenant="b")
    faulty.broken = False
    assert press.letterhead(tenant="a") == Letterhead("Changed elsewhere")
