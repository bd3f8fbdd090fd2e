"""``blatam-kv batch`` against a real service: a list goes in, a ZIP comes out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest
from test_server_process import serving

from blatam_kv import cli

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Where a service is, for the length of this module."""
    folder = tmp_path_factory.mktemp("data")
    with serving(data_dir=folder) as (_, client):
        yield ["--url", client.url, "--data-dir", str(folder)]


def listed(folder: Path) -> Path:
    path = folder / "list.csv"
    path.write_text("query,max_length,format\nbread,12,markdown\ncake,12,html\n")
    return path


def test_a_list_is_submitted_followed_and_fetched(
    flags: list[str], tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "documents.zip"
    submit = ["batch", "submit", str(listed(tmp_path)), "--output", str(output), *flags]
    assert cli.main(submit) == 0
    assert "2 completed, 0 failed, 0 cancelled" in capsys.readouterr().out
    with zipfile.ZipFile(output) as archive:
        names = archive.namelist()
    assert [name[:4] for name in names] == ["0001", "0002", "mani"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", [".json", ".xlsx"])
def test_other_kinds_of_lists_are_taken_and_followed_later(
    flags: list[str], tmp_path: Path, capsys: Captured, kind: str
) -> None:
    path = tmp_path / f"list{kind}"
    if kind == ".json":
        path.write_text(json.dumps({"documents": [{"query": "bread", "max_length": 12}]}))
    else:
        book = openpyxl.Workbook()
        book.worksheets[0].append(("query", "max_length"))
        book.worksheets[0].append(("bread", 12))
        book.save(path)
    assert cli.main(["batch", "submit", str(path), "--no-wait", "--json", *flags]) == 0
    batch = json.loads(capsys.readouterr().out)["batch_id"]
    assert cli.main(["batch", "follow", batch, "--json", *flags]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["completed"], status["total"]) == (1, 1)
    assert cli.main(["batch", "cancel", batch, *flags]) == 0
    assert "0 documents cancelled, 1 were written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "more", "status", "hint"),
    [
        ("list.txt", "query", [], 2, "is not a .json, .csv or .xlsx list"),
        ("gone.csv", None, [], 2, "cannot read"),
        ("list.csv", "qery\nbread\n", [], 1, "did you mean query?"),
        ("list.csv", "query\nbread\n", ["--priority", "9"], 1, "from 0 to 4"),
        ("list.json", "{}", ["--priority", "1"], 2, "says itself"),
    ],
)
def test_a_bad_list_ends_with_the_fix(
    flags: list[str],
    tmp_path: Path,
    capsys: Captured,
    name: str,
    text: str | None,
    more: list[str],
    status: int,
    hint: str,
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert cli.main(["batch", "submit", str(path), *more, *flags]) == status
    assert hint in capsys.readouterr().err


def test_an_unknown_batch_and_a_place_that_cannot_be_written_are_named(
    flags: list[str], tmp_path: Path, capsys: Captured
) -> None:
    assert cli.main(["batch", "follow", "nope", *flags]) == 1
    assert "no batch" in capsys.readouterr().err
    submit = ["batch", "submit", str(listed(tmp_path)), *flags]
    assert cli.main([*submit, "--output", str(tmp_path / "no" / "where.zip")]) == 2
    assert "cannot write" in capsys.readouterr().err
