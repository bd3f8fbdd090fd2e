"""``metadata.json``: what a store is. Specified in docs/FORMAT.md, section 3."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blatam_kv._core import crc32c
from blatam_kv.errors import ConfigError, Unsupported
from blatam_kv.tiers.files import OUR_OWN_LIMITS, Files, replace_file
from blatam_kv.tiers.segment import STORE_ID_BYTES

FORMAT = 1
NAME = "metadata.json"
MAX_TAGS_BYTES = 16 << 10
MAX_MANIFEST_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Manifest:
    """store: its random id. segments: numbers, ascending. tags: the user's words about it."""

    store: bytes
    segments: tuple[int, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def newest(self) -> int:
        """The highest segment, 0 for none."""
        return self.segments[-1] if self.segments else 0


def encode(manifest: Manifest) -> bytes:
    """The one document that says this."""
    document: dict[str, object] = {
        "format": FORMAT,
        "segments": list(manifest.segments),
        "store": manifest.store.hex(),
        "tags": dict(manifest.tags),
    }
    return _dump({"checksum": _checksum(document), **document})


def decode(data: bytes) -> Manifest | None:
    """The manifest, or None for anything else. Raises Unsupported for a newer, intact one."""
    try:
        document = json.loads(data)
        checksum = document.pop("checksum")
        if checksum != _checksum(document) or not isinstance(document["format"], int):
            return None
        if document["format"] > FORMAT:
            raise Unsupported(
                f"{NAME} has format {document['format']}, this build reads up to {FORMAT}: "
                "install the newer blatam-kv that wrote it"
            )
        manifest = Manifest(
            bytes.fromhex(document["store"]), tuple(document["segments"]), document["tags"]
        )
        # One document for each manifest: whatever else is in there was not written by us.
        exact = encode(manifest) == data and len(manifest.store) == STORE_ID_BYTES
        return manifest if exact else None
    except Unsupported:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_manifest(files: Files, folder: Path) -> Manifest | None:
    """The manifest of a store; None if there is none that can be read and believed.

    Raises OSError where the process, not the file, is to blame.
    """
    try:
        fd = files.open(folder / NAME, os.O_RDONLY)
        try:
            return decode(files.read(fd, MAX_MANIFEST_BYTES, 0))
        finally:
            files.close(fd)
    except OSError as error:
        if error.errno in OUR_OWN_LIMITS:
            raise
        return None


def write_manifest(files: Files, folder: Path, manifest: Manifest) -> None:
    """Put a manifest in place of the old one, at once and durably. Raises OSError."""
    replace_file(files, folder / NAME, [encode(manifest)])


def validated_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags, if they are strings by name and few enough."""
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"tags are strings by name, not {name!r}: {value!r}")
    if len(_dump(dict(tags))) > MAX_TAGS_BYTES:
        raise ConfigError(f"tags must not exceed {MAX_TAGS_BYTES} bytes of JSON")
    return dict(tags)


def _dump(document: Mapping[str, object]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def _checksum(document: Mapping[str, object]) -> str:
    return f"{crc32c(_dump(document)):08x}"
