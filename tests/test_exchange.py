"""A store as .pt and safetensors: every record comes back, anyone can read the files, code is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tier_fakes import KEYS, key_of, open_tier, record_of

from blatam_kv import ConfigError, InvalidRequest, Unsupported, cli
from blatam_kv.exchange import FORMATS, export_store, import_store
from blatam_kv.record import Record
from blatam_kv.tiers import DiskTier

DISK_BYTES = 64 << 20
RECORDS = [
    record_of(1, b"one", tags=bytes(range(32)), codec="raw", created_us=5, expires_us=2**62),
    record_of(2, bytes(range(256)) * 4, tokens=(0).to_bytes(4, "little") + b"\xff\xff\xff\xff"),
    record_of(3, b""),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with open_tier(tmp_path / "store", tags={"model": "ñ"}, segment_bytes=16 << 10) as tier:
        tier.put_many([record_of(2, b"older"), record_of(4, b"deleted"), *RECORDS])
        tier.delete_many([key_of(4)])
    return tmp_path / "store"


def records(path: Path) -> list[Record | None]:
    with DiskTier(path, read_only=True) as tier:
        return tier.get_many(KEYS)


@pytest.mark.parametrize("format", FORMATS)
def test_every_record_goes_out_and_comes_back(store: Path, tmp_path: Path, format: str) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert export_store(store, out, format=format) == 3
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        f"cache.{format}",
        *(f"entries/entry_00{number}.{format}" for number in (1, 2, 3)),
    ]
    assert import_store(out, back, disk_bytes=DISK_BYTES) == 3
    assert records(back) == records(store)
    assert [record for record in records(back) if record] == RECORDS
    with DiskTier(back, read_only=True) as tier:
        assert tier.tags == {"model": "ñ"}
    assert import_store(out, back, disk_bytes=DISK_BYTES) == 3  # again, into what is there
    assert records(back) == records(store)


def test_pt_files_hold_tensors_strings_and_ints_only(store: Path, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out")
    for path in tmp_path.glob("out/**/*.pt"):
        document = torch.load(path, weights_only=True)
        assert {type(value) for value in document.values()} <= {torch.Tensor, str, int}
    entry = torch.load(tmp_path / "out" / "entries" / "entry_002.pt", weights_only=True)
    assert entry["key"] == key_of(2).hex()
    assert entry["tokens"].tolist() == [0, 2**32 - 1]
    assert bytes(entry["payload"]) == bytes(range(256)) * 4


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_an_entry_is_named(store: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    export_store(store, out, format=format)
    file = out / "entries" / f"entry_002.{format}"
    good = file.read_bytes()
    for bad in (b"", good[:100], good[:-20], bytes(len(good)), b"\x80\x04cos\nsystem\n."):
        file.write_bytes(bad)
        with pytest.raises((Unsupported, InvalidRequest), match="entry_002"):
            import_store(out, tmp_path / "back", disk_bytes=DISK_BYTES)
    file.unlink()
    with pytest.raises(InvalidRequest, match="lists 3 entries and has 2"):
        import_store(out, tmp_path / "back", disk_bytes=DISK_BYTES)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "00"},
        {"key": 5},
        {"kind": 9},
        {"kind": 3},
        {"codec": "../x"},
        {"payload": torch.zeros(3)},
        {"payload": torch.zeros(2, 2, dtype=torch.uint8)},
        {"tokens": torch.tensor([-1])},
        {"created_us": -1},
        {"more": [1]},
    ],
)
def test_a_wrong_field_is_refused(store: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "out"
    export_store(store, out)
    file = out / "entries" / "entry_001.pt"
    torch.save(torch.load(file, weights_only=True) | change, file)
    with pytest.raises((Unsupported, InvalidRequest, ConfigError)):
        import_store(out, tmp_path / "back", disk_bytes=DISK_BYTES)
    with DiskTier(tmp_path / "back", read_only=True) as tier:
        assert len(tier) == 0


def test_code_in_a_pt_file_does_not_run(store: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    export_store(store, tmp_path / "out")
    torch.save({"key": Evil()}, tmp_path / "out" / "entries" / "entry_001.pt")
    with pytest.raises(Unsupported, match="plain data"):
        import_store(tmp_path / "out", tmp_path / "back", disk_bytes=DISK_BYTES)
    assert not (tmp_path / "owned").exists()


def test_wrong_arguments_are_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format"):
        export_store(store, tmp_path / "out", format="pickle")
    with pytest.raises(ConfigError, match="new folder"):
        export_store(store, store)
    with pytest.raises(InvalidRequest, match="no export"):
        import_store(store, tmp_path / "back", disk_bytes=DISK_BYTES)


def test_what_is_no_cache_is_said_before_anything_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["export", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "nowhere is not a cache" in said
    assert "torch" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing_and_can_be_repeated(
    store: Path, tmp_path: Path
) -> None:
    def breaks(records: Iterable[Any], total: int) -> Iterator[Any]:
        yield next(iter(records))
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        export_store(store, tmp_path / "out", progress=breaks)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "out.partial" / "entries").mkdir(parents=True)  # what a killed one leaves
    assert export_store(store, tmp_path / "out") == 3


def test_the_commands_say_what_they_did(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = str(tmp_path / "out"), str(tmp_path / "back")
    command = ["export", str(store), out, "--format", "safetensors", "--quiet"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"3 entries of {store} are in {out}\n"
    assert cli.main(command) == 2
    assert "new folder" in capsys.readouterr().err
    assert cli.main(["import", out, back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"entries": 3, "cache": back}
    assert records(Path(back)) == records(store)
