"""Every format version that was ever shipped stays readable: stores and backups kept since then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blatam_kv.backup import backups, restore, verify
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier

FORMATS = Path(__file__).parent / "data" / "formats"
MAC_KEY = b"a secret of formats"
SECRET = b"a secret of sixteen bytes or more"


def key(number: int) -> bytes:
    return bytes([number]) * 32


KEYS = [key(number) for number in range(6)]
STORED: list[Record | None] = [
    None,
    Record(key(1), Kind.RESPONSE, b"one", created_us=1),
    Record(
        key(2),
        Kind.BLOCK,
        b"two" * 30,
        tags=key(9),
        codec="int4_kc",
        tokens=bytes([1, 0, 0, 0, 2, 0, 0, 0]),
        expires_us=2**62,
    ),
    None,
    Record(key(4), Kind.RESPONSE, b"four"),
    None,
]


def check(path: Path) -> None:
    for mac_key in (None, MAC_KEY):
        with DiskTier(path, read_only=True, mac_key=mac_key) as tier:
            assert tier.get_many(KEYS) == STORED
            assert tier.tags == {"model": "mini"}
            assert tier.stats().damaged == tier.stats().holes == 0


@pytest.mark.parametrize("version", [1])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_store_of_every_version_opens_and_goes_on(
    tmp_path: Path, version: int, checkpoint: bool
) -> None:
    path = tmp_path / "store"
    shutil.copytree(FORMATS / f"store_v{version}", path)
    if not checkpoint:
        (path / "index").unlink()
    check(path)
    with DiskTier(path, disk_bytes=1 << 20, mac_key=MAC_KEY) as tier:
        assert tier.get_many(KEYS) == STORED
        tier.put_many([Record(key(5), Kind.RESPONSE, b"five")])
        tier.delete_many([key(5)])
    check(path)


@pytest.mark.parametrize(("name", "secret"), [("backup_v1", None), ("backup_v1_sealed", SECRET)])
def test_a_backup_of_every_version_is_restored(
    tmp_path: Path, name: str, secret: bytes | None
) -> None:
    (backup,) = backups(FORMATS / name)
    assert verify(backup.path, secret=secret) == backup
    restore(backup.path, tmp_path / "store", secret=secret)
    check(tmp_path / "store")
