"""Batches as lists, their progress, and the ZIP at their end."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openpyxl
import pytest
from bul_fakes import Scripted, running
from hypothesis import given
from hypothesis import strategies as st
from server_browser import Browser, browsing
from test_server_bul import check_problem

from blatam_kv.bul import lists
from blatam_kv.bul.lists import COLUMNS, read_csv, read_xlsx
from blatam_kv.bul.request import MAX_BATCH, RequestRejected, parse_batch, parse_request
from blatam_kv.bul.storage import open_storage
from blatam_kv.errors import ModelError
from blatam_kv.server.batches import CSV, XLSX
from blatam_kv.server.bundle import bundle


def workbook(*rows: tuple[Any, ...], sheets: int = 1) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    for _ in range(1, sheets):
        book.create_sheet().append(("not", "read"))
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def refused(content: bytes, read: Any = read_csv) -> str:
    with pytest.raises(RequestRejected) as caught:
        read(content, priority=3)
    return str(caught.value)


# ---- lists --------------------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"]),
    min_size=1,
    max_size=20,
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"query": TEXTS},
        optional={
            "company_name": TEXTS,
            "priority": st.integers(0, 4),
            "seed": st.integers(0, 2**53),
            "temperature": st.sampled_from([0.0, 0.5, 1.25]),
            "format": st.sampled_from(["markdown", "html"]),
        },
    ),
    min_size=1,
    max_size=8,
)


@given(DOCUMENTS, st.sampled_from(",;\t"))
def test_a_csv_list_is_the_json_batch_of_the_same_documents(
    documents: list[dict[str, Any]], delimiter: str
) -> None:
    import csv

    names = sorted({name for each in documents for name in each} | {"query", "industry"})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(documents)
    expected = parse_batch({"documents": documents}).documents
    assert read_csv(text.getvalue().encode("utf-8-sig"), priority=3) == expected


def test_a_workbook_is_the_json_batch_of_the_same_documents() -> None:
    documents = [
        {"query": "bread", "priority": 0, "temperature": 0.5, "seed": 7},
        {"query": "2024", "format": "html", "company_name": "Espiga"},
    ]
    content = workbook(
        ("query", "priority", "temperature", "seed", "format", "company_name"),
        ("bread", 0, 0.5, 7.0, None, None),
        (),
        (2024, None, None, None, "html", "Espiga"),
        sheets=2,
    )
    assert read_xlsx(content, priority=3) == parse_batch({"documents": documents}).documents


def test_a_formula_is_the_text_it_is() -> None:
    content = workbook(("query",), ("=1+1",), ('=HYPERLINK("http://x","y")',))
    queries = [request.query for request in read_xlsx(content, priority=3)]
    assert queries == ["=1+1", '=HYPERLINK("http://x","y")']


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "one of which is query"),
        ("query\n", "has no documents below its header"),
        ("qery\nbread\n", "did you mean query?"),
        ("query,colour\nbread,red\n", "row 1, colour: is not a known field"),
        ("query,cache\nbread,x\n", "row 1, cache: is not a known field"),
        ("query,query\na,b\n", "row 1: has query twice"),
        ("query,priority\nbread\n", "row 2: has 1 cells, the header has 2"),
        ("query,priority\nbread,1,2\n", "row 2: has 3 cells, the header has 2"),
        ("query,priority\n\nbread,high\n", "row 3, priority: "),
        ("query,temperature\nbread,hot\n", "row 2, temperature: "),
        ("query\n" + "x" * 10_001, "row 2, query: has 10,001 characters"),
        ('query\n"bread\n', "cannot be read"),
        ('query\n"a"b\n', "cannot be read"),
        ("query\n" + "x" * 200_000, "field larger than field limit"),
        ("query\n" + "bread\n" * (MAX_BATCH + 1), "has more than 1,000 documents"),
        ("query,format\nbread,papyrus\n", "row 2, format"),
    ],
)
def test_what_is_wrong_with_a_list_is_named_by_row_and_column(text: str, hint: str) -> None:
    assert hint in refused(text.encode())


def test_a_list_that_is_not_utf_8_says_how_to_save_it() -> None:
    assert "save it as CSV UTF-8" in refused("query\npanadería\n".encode("latin-1"))


def test_no_more_problems_are_named_than_anyone_reads() -> None:
    with pytest.raises(RequestRejected) as caught:
        read_csv(b"query,priority\n" + b"bread,9\n" * 500, priority=3)
    assert len(caught.value.problems) == 20


def packed(**parts: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return content.getvalue()


def changed(name: str, change: Any) -> bytes:
    """A good workbook with one part changed."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(workbook(("query",), ("bread",)))) as good,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for part in good.namelist():
            data = good.read(part)
            archive.writestr(part, change(data) if part == name else data)
    return content.getvalue()


SHEET = "xl/worksheets/sheet1.xml"


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "is not an XLSX workbook"),
        (b"query\nbread\n", "is not an XLSX workbook"),
        (packed(a=b"x"), "cannot be read as an XLSX workbook"),
        (packed(a=bytes(lists.MAX_UNPACKED + 1)), "unpacks to more than 16 MiB"),
        (packed(**{f"a{n}": b"" for n in range(300)}), "unpacks to more than 16 MiB"),
        (workbook(("query",), ("bread",))[:-30], "is not an XLSX workbook"),
        (changed(SHEET, lambda data: data[:200]), "cannot be read as an XLSX workbook"),
        (
            changed(SHEET, lambda data: b'<!DOCTYPE x [<!ENTITY a "b">]>' + data),
            "no spreadsheet program writes",
        ),
        (
            changed(SHEET, lambda data: data.decode().encode("utf-16")),
            "no spreadsheet program writes",
        ),
        (workbook(("query",), ("bread", "more")), "row 2: has 2 cells, the header has 1"),
        (workbook(("query", "priority"), ("bread", "high")), "row 2, priority"),
        (workbook(("query",), *[("bread",)] * (MAX_BATCH + 1)), "more than 1,000 documents"),
        (workbook(("query",), ("x" * 20_000,)), "row 2, query: has 20,000 characters"),
        (workbook(), "one of which is query"),
    ],
)
def test_a_workbook_that_is_none_is_refused_before_it_costs_anything(
    content: bytes, hint: str
) -> None:
    assert hint in refused(content, read_xlsx)


def test_a_row_at_the_end_of_the_world_is_not_walked_to() -> None:
    far = changed(SHEET, lambda data: data.replace(b'<row r="2"', b'<row r="1048576"'))
    assert "has more than 5,000 rows" in refused(far, read_xlsx)


@given(st.integers(0, 4000), st.integers(1, 255))
def test_a_damaged_workbook_is_read_or_refused_and_nothing_else(where: int, change: int) -> None:
    content = bytearray(GOOD)
    content[where % len(content)] ^= change
    try:
        requests = read_xlsx(bytes(content), priority=3)
    except RequestRejected:
        return
    assert len(requests) <= 3


GOOD = workbook(("query", "priority"), ("bread", 1), ("cake", 2))


def test_every_field_but_the_caches_can_be_a_column() -> None:
    assert set(COLUMNS) >= {"query", "format", "priority", "callback_url"}
    assert "cache" not in COLUMNS


# ---- over HTTP ----------------------------------------------------------------------------------


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def browser(model: Scripted) -> Iterator[Browser]:
    with browsing(model, max_concurrent_tasks=2) as browser:
        yield browser


def send(browser: Browser, content: bytes, kind: str, query: str = "") -> httpx.Response:
    headers = {"Content-Type": kind}
    return browser.post(f"/api/batch{query}", content=content, headers=headers)


def completed(browser: Browser, path: str) -> dict[str, Any]:
    while (status := browser.get(path).json())["status"] != "completed":
        time.sleep(0.001)
    return dict(status)


def opened(response: httpx.Response) -> dict[str, bytes]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("kind", [CSV, XLSX])
def test_a_list_is_written_and_fetched_as_a_zip(
    browser: Browser, model: Scripted, kind: str
) -> None:
    content = b"query,format\nbread,html\ncake,\nbread,\n"
    if kind == XLSX:
        content = workbook(("query", "format"), ("bread", "html"), ("cake", None), ("bread", None))
    asked = send(browser, content, kind, "?priority=1")
    assert asked.status_code == 202, asked.text
    path = asked.headers["location"]
    assert completed(browser, path)["completed"] == 3
    files = opened(browser.get(f"{path}/archive"))
    manifest = json.loads(files.pop("manifest.json"))
    assert [entry["file"] for entry in manifest] == list(files)
    assert [entry["task_id"] for entry in manifest] == [
        task["task_id"] for task in asked.json()["tasks"]
    ]
    # The same title twice, and still two files.
    names = [name.partition(" ")[0] for name in files]
    assert names == ["0001", "0002", "0003"]
    first, second, third = files.values()
    assert first.startswith(b"<!DOCTYPE html>")
    assert b"About cake" in second
    assert (
        third
        == browser.get(
            f"/task/{manifest[2]['task_id']}/documents?format=markdown&download=1"
        ).content
    )
    plain = opened(browser.get(f"{path}/archive?format=txt"))
    assert all(name.endswith((".txt", ".json")) for name in plain)


def test_the_same_batch_is_the_same_zip(browser: Browser) -> None:
    path = send(browser, b"query\nbread\ncake\n", CSV).headers["location"]
    completed(browser, path)
    first = browser.get(f"{path}/archive").content
    assert browser.get(f"{path}/archive").content == first


def test_what_failed_is_in_the_manifest_and_the_rest_in_the_zip(
    browser: Browser, model: Scripted
) -> None:
    model.fails = 1
    path = send(browser, b"query\nbread\ncake\n", CSV).headers["location"]
    status = completed(browser, path)
    assert (status["completed"], status["failed"]) == (1, 1)
    files = opened(browser.get(f"{path}/archive"))
    assert len(files) == 2
    outcomes = {entry["status"]: entry for entry in json.loads(files["manifest.json"])}
    assert outcomes["failed"]["error"] == "broke off"
    assert "file" not in outcomes["failed"]


def test_before_the_end_a_part_is_had_by_asking_for_one(browser: Browser, model: Scripted) -> None:
    completed(browser, send(browser, b"query\nbread\n", CSV).headers["location"])
    model.gate = threading.Event()
    path = send(browser, b"query\nbread\ncake\n", CSV).headers["location"]
    early = browser.get(f"{path}/archive")
    check_problem(early, 409, "A002", "1 of 2 documents are not finished")
    files = opened(browser.get(f"{path}/archive?partial=1"))
    assert [entry["status"] for entry in json.loads(files["manifest.json"])] == [
        "completed",
        "queued",
    ]
    status = browser.get(f"{path}?tasks=0").json()
    assert "tasks" not in status
    assert (status["total"], status["completed"]) == (2, 1)
    assert 0.5 <= status["progress"] < 1
    model.gate.set()


@pytest.mark.parametrize(
    ("content", "kind", "query", "status", "hint"),
    [
        (b"query\n", CSV, "", 422, "no documents below"),
        (b"query\nbread\n", CSV, "?priority=9", 422, "priority"),
        (b"query\nbread\n", CSV, "?callback_url=ftp://x", 422, "callback_url"),
        (b"query\nbread\n", CSV, "?callback_url=http://10.0.0.1/", 422, "not a public address"),
        (b"query\nbread\n", CSV, "?what=1", 422, "what"),
        (b'{"documents": [{"query": "x"}]}', "application/json", "?priority=1", 422, "priority"),
        (b"query\nbread\n", "text/plain", "", 415, "text/csv"),
        (b"bread", XLSX, "", 422, "not an XLSX workbook"),
        (b"x" * (lists.MAX_BYTES + 1), CSV, "", 413, "4,194,304 bytes"),
        (b"query\n" + b"x" * 4_000_000, CSV, "", 422, "field limit"),
    ],
)
def test_a_bad_list_is_refused_and_leaves_nothing(
    browser: Browser, content: bytes, kind: str, query: str, status: int, hint: str
) -> None:
    check_problem(send(browser, content, kind, query), status, "A002", hint)
    assert browser.get("/tasks").json()["total"] == 0


def test_without_the_library_csv_is_offered(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    refused = send(browser, GOOD, XLSX)
    check_problem(refused, 415, "A002", "send CSV")
    assert "blatam-kv[sheets]" in refused.json()["detail"]


def test_another_tenant_finds_neither_batch_nor_zip(browser: Browser) -> None:
    path = send(browser, b"query\nbread\n", CSV).headers["location"]
    completed(browser, path)
    browser.key = browser.keys.create("other").api_key
    for each in (path, f"{path}/archive", f"{path}/archive?partial=1"):
        check_problem(browser.get(each), 404, "A003", "no batch")


def test_a_batch_goes_on_after_a_restart_and_its_zip_is_whole(
    model: Scripted, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'bul.db'}"
    requests = [parse_request({"query": f"q{n}"}) for n in range(4)]
    with running(model, archive=open_storage(url)) as service:
        service.pause()
        batch, tasks = service.batches.ask(requests)
    with running(model, archive=open_storage(url)) as service:
        while any(not service.task(task.id).is_finished for task in tasks):
            time.sleep(0.001)
        rows = service.batches.rows(batch)
        content = b"".join(bundle(service, rows, tenant="local"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.namelist()) == 5
    assert len(model.calls) == 4


def test_a_zip_holds_one_document_at_a_time(model: Scripted) -> None:
    model.text = "# Big\n\n" + "word " * 20_000
    with running(model) as service:
        batch, tasks = service.batches.ask([parse_request({"query": f"q{n}"}) for n in range(20)])
        while any(not service.task(task.id).is_finished for task in tasks):
            time.sleep(0.001)
        rows = service.batches.rows(batch)
        pieces = list(bundle(service, rows, tenant="local"))
    assert len(pieces) == 21
    sizes = [len(piece) for piece in pieces[:-1]]  # the last is the directory
    assert max(sizes) < 3 * min(sizes)  # none waits for another


def test_a_model_that_fails_does_not_stop_the_others(browser: Browser, model: Scripted) -> None:
    model.error = ModelError("out of paper")
    path = send(browser, b"query\nbread\ncake\n", CSV).headers["location"]
    assert completed(browser, path)["failed"] == 2
    files = opened(browser.get(f"{path}/archive"))
    assert list(files) == ["manifest.json"]
