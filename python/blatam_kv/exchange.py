"""A store as files that others can read: ``.pt`` for torch, ``.safetensors``; and back.

``DIR/cache.pt`` says what there is; ``DIR/entries/entry_001.pt`` and so on hold one record each, as
tensors, strings and ints only, so ``torch.load(..., weights_only=True)`` reads them. In safetensors the
same lies in ``cache.safetensors`` and ``entries/entry_001.safetensors``, ints and strings as metadata.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blatam_kv.errors import ConfigError, InvalidRequest, MissingExtra, Unsupported
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskTier

FORMATS = ("pt", "safetensors")
VERSION = 1
# Each record keeps at most so much of a batch in memory.
_BATCH = 16
_ENTRY = re.compile(r"entry_(\d{3,})")
_NUMBERS = ("kind", "created_us", "expires_us")

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def export_store(
    source: str | Path,
    target: str | Path,
    *,
    format: str = "pt",
    progress: Progress = lambda items, total: items,
) -> int:
    """Write every record of a store into a new folder; returns how many.

    The store may be in use. What expires or leaves meanwhile is left out. A failure leaves nothing.
    Raises ConfigError for a format that is unknown or a target that is there, InvalidRequest for a
    source that is no store, MissingExtra without torch, TierUnavailable.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    source, target = Path(source), Path(target)
    if not (source / "entries").is_dir():
        raise InvalidRequest(f"{source} is not a cache: it has no folder entries", field="source")
    if target.exists():
        raise ConfigError(f"{target} is there already; export into a new folder")
    save = _save_pt() if format == "pt" else _save_safetensors
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    (partial / "entries").mkdir(parents=True)
    written = 0
    try:
        with DiskTier(source, read_only=True) as tier:
            keys = tier.keys()
            for record in progress(_records(tier, keys), len(keys)):
                written += 1
                words, numbers, tensors = _parts(record)
                save(partial / "entries" / f"entry_{written:03d}.{format}", words, numbers, tensors)
            words = {f"tag.{name}": value for name, value in tier.tags.items()}
        save(partial / f"cache.{format}", words, {"version": VERSION, "entries": written}, {})
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return written


def import_store(
    source: str | Path,
    target: str | Path,
    *,
    disk_bytes: int,
    progress: Progress = lambda items, total: items,
) -> int:
    """Put every entry of an exported folder into a store, which may be new; returns how many.

    An entry replaces the store's with its key. Raises InvalidRequest for a folder that is no export or
    lacks an entry, Unsupported for a file that is not as ``export_store`` writes it, with nothing but
    tensors, strings and ints; what was read before stays in the store.
    """
    source = Path(source)
    format = next((each for each in FORMATS if (source / f"cache.{each}").is_file()), None)
    if format is None:
        raise InvalidRequest(f"{source} is no export: it has no cache.pt or cache.safetensors")
    load = _load_pt() if format == "pt" else _load_safetensors
    words, numbers, _ = load(source / f"cache.{format}")
    if numbers.get("version") != VERSION:
        raise Unsupported(
            f"{source} has version {numbers.get('version')}; this build reads {VERSION}"
        )
    paths = sorted(
        (path for path in (source / "entries").glob(f"*.{format}") if _ENTRY.fullmatch(path.stem)),
        key=lambda path: int(path.stem.partition("_")[2]),
    )
    if len(paths) != numbers.get("entries"):
        raise InvalidRequest(
            f"{source} lists {numbers.get('entries')} entries and has {len(paths)}", field="source"
        )
    tags = {
        name.removeprefix("tag."): word for name, word in words.items() if name.startswith("tag.")
    }
    stored = 0
    with DiskTier(target, disk_bytes=disk_bytes) as tier:
        if not tier.tags and tags:
            tier.set_tags(tags)
        for path in progress(paths, len(paths)):
            stored += tier.put_many([_record(path, *load(path))])
        tier.sync()
    return stored


Words = dict[str, str]
Numbers = dict[str, int]
Tensors = dict[str, Any]  # arrays: torch's or numpy's


def _records(tier: DiskTier, keys: list[bytes]) -> Iterator[Record]:
    for first in range(0, len(keys), _BATCH):
        for record in tier.get_many(keys[first : first + _BATCH]):
            if record is not None:
                yield record


def _parts(record: Record) -> tuple[Words, Numbers, Tensors]:
    words = {"key": record.key.hex(), "tags": bytes(record.tags).hex(), "codec": record.codec}
    numbers = {name: int(getattr(record, name)) for name in _NUMBERS}
    tensors = {
        "payload": np.frombuffer(record.payload, np.uint8),
        "tokens": np.frombuffer(record.tokens, np.uint32).astype(np.int64),
    }
    return words, numbers, tensors


def _record(path: Path, words: Words, numbers: Numbers, tensors: Tensors) -> Record:
    """The record that a file holds. Raises Unsupported, InvalidRequest."""
    try:
        payload, tokens = tensors["payload"], tensors["tokens"]
        if payload.dtype != np.uint8 or tokens.dtype != np.int64 or payload.ndim + tokens.ndim != 2:
            raise Unsupported(f"{path} has tensors of another kind than an export's")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < 1 << 32:
            raise Unsupported(f"{path} has tokens out of range")
        return Record(
            key=bytes.fromhex(words["key"]),
            kind=Kind(numbers["kind"]),
            payload=payload.tobytes(),
            tags=bytes.fromhex(words["tags"]),
            codec=words["codec"],
            tokens=tokens.astype("<u4").tobytes(),
            created_us=numbers["created_us"],
            expires_us=numbers["expires_us"],
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, Unsupported):
            raise
        raise Unsupported(f"{path} is not an entry of an export: {error}") from error


def _torch() -> Any:  # not every installation has it
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", extra="local") from error
    return torch


def _save_pt() -> Callable[[Path, Words, Numbers, Tensors], None]:
    torch = _torch()

    def save(path: Path, words: Words, numbers: Numbers, tensors: Tensors) -> None:
        plain = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
        torch.save({**words, **numbers, **plain}, path)

    return save


def _load_pt() -> Callable[[Path], tuple[Words, Numbers, Tensors]]:
    torch = _torch()

    def load(path: Path) -> tuple[Words, Numbers, Tensors]:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch says so in many ways
            raise Unsupported(f"{path} is not plain data that torch can read") from error
        if not isinstance(document, dict):
            raise Unsupported(f"{path} does not hold a dict")
        words, numbers, tensors = Words(), Numbers(), Tensors()
        for name, value in document.items():
            if isinstance(value, str):
                words[str(name)] = value
            elif isinstance(value, int):
                numbers[str(name)] = value
            elif isinstance(value, torch.Tensor):
                tensors[str(name)] = value.numpy()
            else:
                raise Unsupported(f"{path} holds a {type(value).__name__} under {name!r}")
        return words, numbers, tensors

    return load


def _save_safetensors(path: Path, words: Words, numbers: Numbers, tensors: Tensors) -> None:
    from safetensors.numpy import save_file

    metadata = {**words, **{f"int.{name}": str(value) for name, value in numbers.items()}}
    save_file(tensors, path, metadata=metadata)


def _load_safetensors(path: Path) -> tuple[Words, Numbers, Tensors]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        numbers = {
            name.removeprefix("int."): int(value)
            for name, value in metadata.items()
            if name.startswith("int.")
        }
    except (SafetensorError, ValueError, OSError) as error:
        raise Unsupported(f"{path} is not a safetensors file of an export: {error}") from error
    return {n: v for n, v in metadata.items() if not n.startswith("int.")}, numbers, tensors
