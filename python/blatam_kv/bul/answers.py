"""Answers on disk: how they are written down, and the shelf they lie on."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from blatam_kv.bul.pipeline import Answer
from blatam_kv.cache import Cache
from blatam_kv.config import Settings
from blatam_kv.errors import TierUnavailable
from blatam_kv.shelf import Shelf
from blatam_kv.tiers import DiskTier
from blatam_kv.truthgpt.protocol import Usage

log = logging.getLogger("blatam_kv.bul")

CODEC = "bul_answer"


def encode(answer: Answer) -> bytes:
    """An answer as JSON, its fields by name."""
    return json.dumps(asdict(answer), ensure_ascii=False, sort_keys=True).encode()


def decode(data: bytes) -> Answer:
    """The answer. Raises ValueError for one that has other fields than this version's."""
    try:
        document = json.loads(data)
        return Answer(**{**document, "usage": Usage(**document["usage"])})
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("it is not an answer of this version") from error


def folder(settings: Settings) -> Path:
    """Where answers lie."""
    return settings.cache_persistence_path or settings.data_dir / "answers"


def open_shelf(cache: Cache[bytes, Answer], settings: Settings) -> Shelf[Answer] | None:
    """The shelf that the settings ask for; None for none, and where its folder cannot be used: the
    service then runs in memory, and the log and its health say why."""
    if not settings.cache_persistence:
        return None
    path = folder(settings)
    try:
        disk = DiskTier(
            path,
            disk_bytes=settings.cache_max_disk_mb << 20,
            tags={"holds": "answers", "codec": CODEC},
        )
    except TierUnavailable as error:
        log.error("answers are kept in memory only: %s", error)
        return None
    shelf = Shelf(cache, disk, codec=CODEC, encode=encode, decode=decode, ttl=settings.cache_ttl)
    log.info("%d answers came back from %s", shelf.warmed, path)
    return shelf
