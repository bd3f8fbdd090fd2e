"""Traces in every format are the same trace, and what is none is refused with its place and a remedy."""

from __future__ import annotations

import gzip
import json
import lzma
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blatam_kv as kv
from blatam_kv._core import Trace
from blatam_kv.traces import PIECE, read

IDS = [5, 7, 5, 4_000_000_000, 5, 7, 0]
SIZES = [10, 20, 10, 30, 10, 20, 0]
DATA = Path(__file__).parent / "data"


def shape(trace: Trace) -> tuple[str, int, int, int, int]:
    return trace.kind, trace.requests, trace.prompts, trace.unique, trace.unique_bytes


def write(path: Path, content: bytes | str) -> Path:
    content = content.encode() if isinstance(content, str) else content
    if path.suffix == ".xz":
        content = lzma.compress(content)
    elif path.suffix == ".gz":
        content = gzip.compress(content)
    path.write_bytes(content)
    return path


def u32(numbers: list[int]) -> bytes:
    return np.array(numbers, "<u4").tobytes()


CSV = "size,key\n" + "".join(f"{size},{id}\n" for id, size in zip(IDS, SIZES, strict=True))
FILES: dict[str, bytes | str] = {
    "t.u32": u32(IDS),
    "t.txt": "\n".join(map(str, IDS)),  # no end of line at the end
    "t.csv": "\ufeffkey\r\n" + "\r\n".join(map(str, IDS)) + "\r\n\r\n",  # as Excel writes it
}

# ---- what can be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", ".xz", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_trace_of_its_ids(tmp_path: Path, name: str, packed: str) -> None:
    path = write(tmp_path / f"{name}{packed}", FILES[name])
    assert shape(read(path)) == shape(read(str(path))) == ("objects", 7, 0, 4, 0)
    for capacity in (1, 2, 3):
        assert (
            kv.simulate(path, "lru", capacity).results == kv.simulate(IDS, "lru", capacity).results
        )


@pytest.mark.parametrize("type", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_any_array_of_integers_is_a_trace(type: str) -> None:
    ids = np.array([3, 1, 3, 100, 1], type)
    assert shape(read(ids)) == ("objects", 5, 0, 3, 0)
    assert shape(read(ids[::-2])) == ("objects", 3, 0, 2, 0)
    assert shape(read(ids.data)) == shape(read(ids.tolist())) == shape(read(ids))


@pytest.mark.parametrize(
    "ids", [array("Q", IDS), tuple(IDS), np.array(IDS, np.int64), [np.int64(id) for id in IDS]]
)
def test_sequences_of_integers_need_no_numpy_of_their_own(ids: Any) -> None:
    assert shape(read(ids)) == ("objects", 7, 0, 4, 0)


def test_what_offers_no_buffer_may_offer_an_array() -> None:
    class Series:
        def __array__(self, *args: object, **options: object) -> Any:
            return np.array(IDS)

    assert read(Series()).unique == 4


def test_ids_go_up_to_2_to_the_64() -> None:
    assert read([2**64 - 1, 0, 2**64 - 1]).unique == 2


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_pieces_make_a_whole(tmp_path: Path, length: int) -> None:
    ids = list(range(length))
    text = "key\n" + "".join(f"{id}\n" for id in ids)
    for path in (
        write(tmp_path / "t.u32", u32(ids)),
        write(tmp_path / "t.txt", text.partition("\n")[2]),
        write(tmp_path / "t.csv", text),
    ):
        assert shape(read(path, report=lambda done, total: None)) == (
            "objects",
            length,
            0,
            length,
            0,
        )


def test_a_text_key_may_be_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", b"a b\n\xff\xfe\n\na b\r\n a b\n")
    assert shape(read(path)) == ("objects", 4, 0, 3, 0)


def test_sizes_come_from_an_array_a_file_or_a_column(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.u32", u32(IDS))
    sizes = write(tmp_path / "t.sz.xz", u32(SIZES))
    table = write(tmp_path / "t.csv", CSV)
    wanted = ("sized", 7, 0, 4, 60)
    assert shape(read(trace, sizes=sizes)) == shape(read(IDS, sizes=SIZES)) == wanted
    assert shape(read(table, column="key", size_column="size")) == wanted
    assert shape(read(table, column="key", sizes=np.array(SIZES))) == wanted
    assert shape(read(table)) == ("objects", 7, 0, 4, 0)  # the first column: sizes as keys
    # Sizes beside a trace change what a capacity means: never taken unasked.
    assert read(trace).kind == "objects"


@pytest.mark.parametrize("packed", ["", ".xz", ".gz"])
def test_prompts_are_read_line_by_line(tmp_path: Path, packed: str) -> None:
    lines = [
        '{"hash_ids": [1, 2, 3], "timestamp": 5}',
        "",
        '{"hash_ids": []}',
        '{"hash_ids":[1,9]}',
    ]
    path = write(tmp_path / f"t.jsonl{packed}", "\n".join(lines))
    assert shape(read(path)) == ("prefixes", 5, 3, 4, 0)


def test_the_report_ends_where_the_file_does() -> None:
    path = DATA / "mooncake_synthetic.jsonl.xz"
    reports: list[tuple[int, int]] = []
    read(path, report=lambda done, total: reports.append((done, total)))
    assert len(reports) > 3
    assert reports == sorted(reports)
    assert reports[-1] == (path.stat().st_size, path.stat().st_size)


# ---- what cannot --------------------------------------------------------------------------------


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(kv.InvalidRequest) as caught:
        read(*arguments, **options)
    assert caught.value.field in {"trace", "sizes", "column"}
    return str(caught.value)


@pytest.mark.parametrize(
    ("trace", "hint"),
    [
        ([], "holds no requests"),
        (np.array([], np.uint32), "holds no requests"),
        ([1, -1], "from 0 to 2**64-1"),
        ([1, 2**64], "from 0 to 2**64-1"),
        (np.array([4, 5, -6], np.int32), "request 2 of trace, from 0: an id must be from 0"),
        ([1.5], "must hold integers"),
        (["a"], "must hold integers"),
        ([[1, 2]], "must hold integers"),
        (np.array([1.0]), "not 1-D of format 'd'"),
        (np.array([[1, 2]]), "not 2-D"),
        (np.array([True]), "format '?'"),
        (np.array([1], ">u4"), "format '>I'"),
        (np.array(["a"], object), "not 1-D of format 'O'"),
        (b"12", "must be a path or a 1-D array of integers, not bytes"),
        (7, "must be a path or a 1-D array of integers, not int"),
        (None, "must be a path or a 1-D array of integers, not NoneType"),
    ],
)
def test_a_wrong_array_is_refused(trace: Any, hint: str) -> None:
    assert hint in refused(trace)


@pytest.mark.parametrize(
    ("sizes", "hint"),
    [
        ([1, 2], "only 2 sizes but more requests"),
        ([1, 2, 3, 4], "4 sizes but only 3 requests"),
        ([], "only 0 sizes"),
        ([1, 2, -3], "sizes must hold integers from 0"),
        (np.array([1, -2, 3]), "request 1 of trace, from 0: a size must be 0 bytes or more"),
        ([2**62, 1, 0], "add up to no more than 2**62"),
        (np.array([1.0, 2.0, 3.0]), "sizes must be a 1-D array of integers"),
        ("t.u32", "must end in .sz"),
        ("/nowhere.sz", "cannot read /nowhere.sz: No such file"),
    ],
)
def test_wrong_sizes_are_refused(sizes: Any, hint: str) -> None:
    assert hint in refused([1, 2, 3], sizes=sizes)


def prompts(*lines: str) -> str:
    return "\n".join(('{"hash_ids": [1, 2]}', *lines))


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("t.u32", b"", "holds no requests"),
        ("t.u32", b"12345", "has 5 bytes, no multiple of 4"),
        ("t.txt", "\n\n", "holds no requests"),
        ("t.csv", "", "holds no requests"),
        ("t.csv", "key\n", "holds no requests"),
        ("t.csv", "17\n18\n", "line 1 of {path} must name the columns, but holds numbers"),
        ("t.csv", "key,size\na,1\nb\n", "line 3 of {path} has 1 columns, the header 2"),
        ("t.csv", "key\n" + "x" * 200_000, "line 2 of {path} is not CSV: field larger"),
        ("t.jsonl", "", "holds no requests"),
        ("t.jsonl", '{"hash_ids": []}', "holds no requests"),
        ("t.jsonl", prompts("", '{"hash_ids": [1, 2'), "line 3 of {path} is not JSON"),
        ("t.jsonl", prompts("[" * 100_000), "line 2 of {path} is not JSON"),
        ("t.jsonl", prompts("5"), "line 2 of {path} has no list of hash_ids"),
        ("t.jsonl", prompts('{"messages": []}'), "line 2 of {path} has no list of hash_ids"),
        ("t.jsonl", prompts('{"hash_ids": 3}'), "line 2 of {path} has no list of hash_ids"),
        ("t.jsonl", prompts('{"hash_ids": [1, "2"]}'), "line 2 of {path}: hash_ids must be"),
        ("t.jsonl", prompts('{"hash_ids": [1.0]}'), "line 2 of {path}: hash_ids must be"),
        ("t.jsonl", prompts('{"hash_ids": [true]}'), "line 2 of {path}: hash_ids must be"),
        ("t.jsonl", prompts('{"hash_ids": [-1]}'), "line 2 of {path}: hash_ids must be"),
        ("t.jsonl", prompts(f'{{"hash_ids": [{2**64}]}}'), "line 2 of {path}: hash_ids must be"),
        ("t.jsonl", prompts('{"hash_ids": [2]}'), "line 2 of {path}: block 2: the block follows"),
        (
            "t.jsonl",
            prompts('{"hash_ids": [5, 5]}'),
            "line 2 of {path}: block 5: the block follows",
        ),
        ("t.u32.xz", None, "is damaged, or no .xz file"),
        ("t.u32.gz", None, "is damaged, or no .gz file"),
        ("t.lis", "1", "must end in .u32 (little-endian uint32), .txt"),
        ("trace", "1", "does not tell its format"),
        ("t.xz", "1", "does not tell its format"),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, name: str, content: bytes | str | None, hint: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.write_bytes(b"certainly not packed")
    else:
        write(path, content)
    assert hint.format(path=path) in refused(path)


@pytest.mark.parametrize("packed", [".xz", ".gz"])
@pytest.mark.parametrize("name", ["t.u32", "t.txt", "t.csv", "t.jsonl"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, packed: str) -> None:
    ids = np.random.default_rng(1).integers(0, 2**32, 50_000)
    content: bytes | str = "key\n" + "\n".join(map(str, ids))
    if name == "t.u32":
        content = u32(ids.tolist())
    elif name == "t.jsonl":
        content = "".join(json.dumps({"hash_ids": [int(id)]}) + "\n" for id in ids)
    path = write(tmp_path / f"{name}{packed}", content)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 20):
        path.write_bytes(whole[:length])
        assert f"{path} is truncated" in refused(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.u32.xz", u32(list(range(5000))))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is damaged" in refused(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "t.u32")
    (tmp_path / "t.txt").mkdir()
    assert "Is a directory" in refused(tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"column": "id"}, "no column of {path} is called 'id'; there are: size, key"),
        ({"size_column": "bytes"}, "no column of {path} is called 'bytes'"),
        (
            {"size_column": "key", "column": "size"},
            "line 3 of {path}: a size must be a whole number",
        ),
        ({"size_column": "size", "sizes": [1]}, "size_column names them"),
        ({"sizes": [1]}, "only 1 sizes but more requests in {path}"),
    ],
)
def test_a_wrong_column_is_refused(tmp_path: Path, options: dict[str, Any], hint: str) -> None:
    path = write(tmp_path / "t.csv", "size,key\n1,2\n3,-4\n")
    assert hint.format(path=path) in refused(path, **options)


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"hash_ids": [1]}')
    assert "all blocks are of one size" in refused(path, sizes=[1])
    assert "are for traces in CSV" in refused(path, column="hash_ids")
    assert "are for traces in CSV" in refused([1], size_column="size")
