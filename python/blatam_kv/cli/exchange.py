"""``blatam-kv export`` and ``import``: a cache as .pt or safetensors files, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blatam_kv.exchange import export_store, import_store


def export_cache(source: Path, target: Path, *, format: str, quiet: bool, as_json: bool) -> int:
    """Every record as a file."""
    shown = _plainly if quiet or as_json else _bar
    count = export_store(source, target, format=format, progress=shown)
    if as_json:
        print(json.dumps({"entries": count, "folder": str(target)}))
    else:
        print(f"{count} entries of {source} are in {target}")
    return 0


def import_cache(source: Path, target: Path, *, disk_bytes: int, quiet: bool, as_json: bool) -> int:
    """Every file as a record."""
    shown = _plainly if quiet or as_json else _bar
    count = import_store(source, target, disk_bytes=disk_bytes, progress=shown)
    if as_json:
        print(json.dumps({"entries": count, "cache": str(target)}))
    else:
        print(f"{count} entries of {source} are in {target}")
    return 0


def _plainly(items: Iterable[Any], total: int) -> Iterable[Any]:
    return items


def _bar(items: Iterable[Any], total: int) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, unit=" entries", file=sys.stderr, disable=None, leave=False)
