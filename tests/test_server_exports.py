"""The renderer over HTTP, alone and inside the service: a document in, a file out, nothing kept."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docx
import pypdf
import pytest
from bul_fakes import VERSION, Scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import png
from server_browser import Browser, browsing

from blatam_kv.bul.exports import parse_export
from blatam_kv.bul.security.audit import AuditLog
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.master import Master
from blatam_kv.documents.limits import MAX_CHARACTERS, MAX_PIECES
from blatam_kv.documents.rendering import FORMATS, render
from blatam_kv.errors import InvalidRequest
from blatam_kv.server.serve_export import create_export_app, export_metrics

PLAN = """\
# Plan

Uno **dos** [tres](https://x.es).

## Tabla

| a | b |
|--|--:|
| c | 1 |

> [!NOTE]
> Nota.

1. x
   - y
"""


@pytest.fixture
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyRing(Path(folder), Master(bytes(range(32))))
        metrics = export_metrics(VERSION)
        limiter = Limiter(40, 60)
        guard = Guard(keys, limiter=limiter, audit=AuditLog(Path(folder)), count=metrics.rejected)
        with closing(guard):
            app = create_export_app(metrics, guard, version=VERSION)
            yield Browser(app, keys.create("acme", role="admin").api_key, keys)


def export(browser: Browser, **fields: Any) -> Any:
    return browser.post("/api/v1/export", json=fields)


@pytest.mark.parametrize("format", FORMATS)
def test_markdown_becomes_a_file_of_the_format(browser: Browser, format: str) -> None:
    made = export(browser, markdown=PLAN, format=format, style="modern", company="Acme")
    assert made.status_code == 200, made.text
    assert made.headers["content-disposition"].startswith('attachment; filename="Plan.')
    if format == "pdf":
        text = pypdf.PdfReader(io.BytesIO(made.content)).pages[0].extract_text()
    elif format == "docx":
        text = "\n".join(p.text for p in docx.Document(io.BytesIO(made.content)).paragraphs)
    else:
        text = made.text
    assert "Tabla" in text
    assert "Nota." in text


def test_what_json_gives_is_what_export_takes(browser: Browser) -> None:
    given = export(browser, markdown=PLAN, format="json", date="2026-03-07", company="Acme").json()
    for format in ("html", "txt", "pdf", "docx"):
        again = export(browser, **given, format=format)
        assert again.status_code == 200, again.text
        first = export(browser, markdown=PLAN, format=format, date="2026-03-07", company="Acme")
        assert again.content == first.content


def test_sections_may_be_markdown_or_blocks(browser: Browser) -> None:
    sections = [
        {"heading": "Uno", "content": "- a\n- b"},
        {
            "heading": "Dos",
            "blocks": [
                {"type": "paragraph", "text": ["x ", {"text": "y", "bold": True}]},
                {"type": "table", "head": ["A", "B"], "align": ["left", "right"],
                 "rows": [["a", 12500.5], ["b"], ["c", 3, "extra"]]},
                {"type": "list", "start": 4, "items": ["p", [{"type": "code", "text": "q"}]]},
                {"type": "callout", "kind": "tip", "blocks": [{"type": "quote", "blocks": []}]},
                {"type": "rule"},
                {"type": "heading", "level": 3, "text": "Tres"},
            ],
        },
    ]  # fmt: skip
    text = export(browser, title="T", sections=sections, format="markdown").text
    assert text == (
        "## Uno\n\n- a\n- b\n\n## Dos\n\nx **y**\n\n| A | B |  |\n| --- | --: | --- |\n"
        "| a | 12.500,50 |  |\n| b |  |  |\n| c | 3 | extra |\n\n4. p\n5. ```\n   q\n   ```\n\n"
        "> [!TIP]\n> >\n\n***\n\n### Tres\n"
    )


def test_a_letterhead_comes_with_the_document_or_is_the_tenants(browser: Browser) -> None:
    head = {"company": "Own Ltd", "logo": base64.b64encode(png()).decode()}
    assert "Own Ltd" in export(browser, markdown="x", format="html", letterhead=head).text
    with browsing(Scripted()) as bul:
        bul.request("PUT", "/letterhead", json={"company": "Acme GmbH"})
        assert "Acme GmbH" in export(bul, markdown="x", format="html").text
        plain = export(bul, markdown="x", format="html", letterhead=False).text
        assert "Acme GmbH" not in plain


# The gate is the same.


def test_nobody_exports_without_a_key_or_the_right_to(browser: Browser) -> None:
    browser.key = None
    assert export(browser, markdown="x").status_code == 401
    assert browser.get("/healthz").status_code == 200
    browser.key = browser.keys.create("acme", role="monitor").api_key
    assert export(browser, markdown="x").status_code == 403


def test_exports_are_limited(browser: Browser) -> None:
    codes = {export(browser, markdown="x", format="txt").status_code for _ in range(50)}
    assert codes == {200, 429}


def test_the_interface_is_described_and_counted(browser: Browser) -> None:
    paths = browser.get("/openapi.json").json()["paths"]
    assert {"/api/v1/export", "/api/v1/export/validate", "/api/v1/export/formats"} <= set(paths)
    export(browser, markdown="x", format="html")
    assert 'bul_documents_total{format="html",outcome="ok"} 1.0' in browser.get("/metrics").text
    assert set(browser.get("/").json()["endpoints"]) >= {"POST /api/v1/export"}
    assert browser.get("/api/v1/export/formats").json()["formats"] == list(FORMATS)


# Bad input.


@pytest.mark.parametrize(
    ("fields", "field", "hint"),
    [
        ({}, "markdown", "either markdown or sections"),
        ({"markdown": "x", "sections": []}, "markdown", "either markdown or sections"),
        ({"markdown": "x", "format": "odt"}, "format", "is not one of"),
        ({"markdown": "x", "style": "red"}, "style", "is not one of"),
        ({"markdown": "x", "language": "../es"}, "language", "no tag of a language"),
        ({"markdown": "x", "date": "tomorrow"}, "date", "write 2026-03-07"),
        ({"markdown": "x", "titel": "x"}, "titel", "did you mean title"),
        ({"sections": [{"level": 9}]}, "sections.0.level", "less than or equal to 6"),
        ({"sections": [{"blocks": [{}]}]}, "sections.0.blocks.0.type", "is not one of heading"),
        (
            {"sections": [{"blocks": [{"type": "paragraf"}]}]},
            "sections.0.blocks.0.type",
            "did you mean paragraph",
        ),
        (
            {"sections": [{"blocks": [{"type": "paragraph"}]}]},
            "sections.0.blocks.0.text",
            "is required",
        ),
        (
            {"sections": [{"blocks": [{"type": "table", "head": ["a"], "rows": ["b"]}]}]},
            "sections.0.blocks.0.rows.0",
            "list of cells",
        ),
        (
            {"sections": [{"blocks": [{"type": "paragraph", "text": {"text": "a", "href": "x:y"}}]}]},
            "sections.0.blocks.0.text.href",
            "must begin with http",
        ),
        ({"markdown": "x", "letterhead": {"company": "a", "logo": "TVo="}}, "logo", "neither a PNG"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_place(
    browser: Browser, fields: dict[str, Any], field: str, hint: str
) -> None:
    refused = export(browser, **fields)
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["field"] == field
    assert hint in error["detail"]
    assert browser.post("/api/v1/export/validate", json=fields).status_code == 422


def test_blocks_too_deep_are_refused() -> None:
    blocks: list[dict[str, Any]] = [{"type": "rule"}]
    for _ in range(20):
        blocks = [{"type": "quote", "blocks": blocks}]
    with pytest.raises(InvalidRequest, match="nested more than 8 deep"):
        parse_export({"sections": [{"blocks": blocks}]})


@pytest.mark.parametrize("format", FORMATS)
def test_a_document_of_many_megabytes_is_refused_with_the_limit(format: str) -> None:
    wanted = parse_export({"markdown": "word " * 2_000_000, "format": format})
    with pytest.raises(InvalidRequest, match=f"at most {MAX_CHARACTERS:,}"):
        render(wanted.document, format)


@pytest.mark.parametrize("format", ["pdf", "docx"])
def test_more_pieces_than_a_page_layout_takes_are_refused(format: str) -> None:
    rows = "| a | b |\n|--|--|\n" + "| c | d |\n" * (MAX_PIECES // 2)
    with pytest.raises(InvalidRequest, match=f"more than {MAX_PIECES:,}"):
        render(parse_export({"markdown": rows}).document, format)
    assert render(parse_export({"markdown": rows}).document, "html").content
    wide = "|" + "a|" * 70 + "\n|" + "-|" * 70 + "\n"
    with pytest.raises(InvalidRequest, match="70 columns"):
        render(parse_export({"markdown": wide}).document, format)


def test_a_body_beyond_the_limit_never_arrives(browser: Browser) -> None:
    assert export(browser, markdown="x" * (2 << 20)).status_code == 413


_TEXT = st.text(max_size=20)
_RUN = st.one_of(
    _TEXT,
    st.fixed_dictionaries({"text": _TEXT}, optional={"bold": st.booleans(), "code": st.booleans()}),
)
_WORDS = st.one_of(_TEXT, st.integers(-(10**12), 10**12), st.lists(_RUN, max_size=3))
_BLOCKS = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("paragraph"), "text": _WORDS}),
        st.fixed_dictionaries({"type": st.just("code"), "text": _TEXT}),
        st.fixed_dictionaries({"type": st.just("heading"), "text": _WORDS, "level": st.integers(1, 6)}),
        st.fixed_dictionaries(
            {
                "type": st.just("table"),
                "head": st.lists(_WORDS, max_size=3),
                "rows": st.lists(st.lists(_WORDS, max_size=4), max_size=3),
            }
        ),
        st.just({"type": "rule"}),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("quote"), "blocks": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"type": st.just("callout"), "blocks": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries(
            {"type": st.just("list"), "items": st.lists(st.lists(inner, min_size=1, max_size=2), max_size=2)}
        ),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(_BLOCKS, max_size=4), st.sampled_from(["es", "en", "ar"]))
def test_any_form_becomes_a_whole_file_in_every_format(blocks: Any, language: str) -> None:
    wanted = parse_export({"sections": [{"blocks": blocks}], "language": language})
    for format in FORMATS:
        content = render(wanted.document, format).content
        if format == "pdf":
            assert pypdf.PdfReader(io.BytesIO(content)).pages
        elif format == "docx":
            docx.Document(io.BytesIO(content))
        elif format == "json":
            json.loads(content)
