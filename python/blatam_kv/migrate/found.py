"""What lies in a folder: settings and data of the original, or a store of this version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from blatam_kv.errors import InvalidRequest

RECORD = "migration.json"
CONFIG = "blatam-kv.json"
STORE = "cache"
_MAX_CONFIG_BYTES = 1 << 20

# The original's names for its settings file's parts, in v1 and from v2 on.
_V1_KEYS = frozenset({"kv_cache_size", "kv_cache_strategy"})
_V2_KEYS = frozenset({"kv_cache"})
_CONFIGS = frozenset({".json", ".yaml", ".yml"})
_PICKLES = frozenset({".pkl", ".pickle"})
_TENSORS = frozenset({".pt", ".pth"})
_DATABASES = frozenset({".db", ".sqlite", ".sqlite3"})


class Version(StrEnum):
    """Whose data a folder holds."""

    NOTHING = "nothing"
    V1 = "v1.x"
    V2 = "v2.0"
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds, as paths relative to it.

    configs: settings files. environment: a .env file. data: pickles, .pt files and databases, in the
    order in which they are taken, so that of two entries with one key the later one counts. others:
    what nobody of us wrote.
    """

    folder: Path
    version: Version
    configs: tuple[str, ...]
    environment: str | None
    data: tuple[str, ...]
    others: tuple[str, ...]


def look(folder: str | Path) -> Found:
    """What is in a folder. Raises InvalidRequest if it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder", field="folder")
    if (folder / RECORD).exists() or _is_store(folder) or _is_store(folder / STORE):
        return Found(folder, Version.CURRENT, (), None, (), ())
    configs, data, others = [], [], []
    environment = None
    keys: set[str] = set()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        name, kind = path.relative_to(folder).as_posix(), path.suffix.lower()
        if path.name == ".env":
            environment = environment or name
        elif kind in _PICKLES | _TENSORS | _DATABASES:
            data.append(name)
        elif kind in _CONFIGS and (found := _config_keys(path)):
            keys |= found
            configs.append(name)
        else:
            others.append(name)
    kinds = {Path(name).suffix.lower() for name in data}
    version = Version.NOTHING
    if keys & _V1_KEYS or kinds & _PICKLES:
        version = Version.V1
    if keys & _V2_KEYS or kinds & _TENSORS:
        version = Version.V2
    if version is Version.NOTHING and (kinds or configs or environment):
        version = Version.V1
    return Found(folder, version, tuple(configs), environment, tuple(data), tuple(others))


def _is_store(folder: Path) -> bool:
    return (folder / "metadata.json").is_file() and any((folder / "entries").glob("*.seg"))


def _config_keys(path: Path) -> set[str]:
    """The original's names at the top of a settings file; none for any other file."""
    document = parsed(path)
    if not isinstance(document, dict):
        return set()
    return {str(key) for key in document} & (_V1_KEYS | _V2_KEYS | {"bul"})


def parsed(path: Path) -> Any:  # any document is an answer
    """A JSON or YAML file's document, None if it is neither or too large."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)
    except ImportError:
        return None
    except (OSError, ValueError, RecursionError):
        return None
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            return None
        raise
