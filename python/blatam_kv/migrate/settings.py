"""The original's settings as this version's, each with what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blatam_kv.config import STRATEGIES, VARIABLES, load
from blatam_kv.errors import ConfigError
from blatam_kv.migrate.found import Found, parsed

# The original's names, as environment variables, for settings that live on under another one.
_RENAMED = {
    "KV_CACHE_CACHE_STRATEGY": "KV_CACHE_STRATEGY",
    "KV_CACHE_TTL": "BUL_CACHE_TTL",
    "KV_CACHE_CACHE_TTL": "BUL_CACHE_TTL",
}
# Names that counted entries, though they spoke of tokens or sizes.
_COUNTS = frozenset({"KV_CACHE_SIZE", "KV_CACHE_MAX_TOKENS"})
_SECRET = ("PASSWORD", "SECRET", "API_KEY", "TOKEN")
_SECTIONS = {"BUL": "bul", "KV_CACHE": "kv_cache"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the original. name: as a variable. source: where it stood. becomes: the
    setting it is now, "" if none; note: why, where that is not obvious."""

    name: str
    value: object
    source: str
    becomes: str
    note: str = ""


def migrate_settings(found: Found) -> tuple[dict[str, dict[str, object]], list[Setting]]:
    """This version's settings file, and what became of every setting that was found.

    A later file, and at the end the .env file, overrule earlier ones. What this version would refuse
    is left out, with the reason. Raises ConfigError only if the result would be refused as a whole.
    """
    document: dict[str, dict[str, object]] = {}
    settings = []
    for name, value, source in _all(found):
        setting, kept = _one(name, value, source)
        settings.append(setting)
        if setting.becomes:
            section, _, key = _place(setting.becomes)
            document.setdefault(section, {})[key] = kept
    return document, settings


def written(document: Mapping[str, Mapping[str, object]], path: Path) -> None:
    """Write a settings file and see that it loads."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    load(file=path, environ={})


def _all(found: Found) -> Iterator[tuple[str, object, str]]:
    for config in found.configs:
        document = parsed(found.folder / config)
        assert isinstance(document, dict)
        for key, value in document.items():
            section = str(key).upper()
            if section in _SECTIONS and isinstance(value, dict):
                for inner, each in value.items():
                    yield f"{section}_{str(inner).upper()}", each, config
            elif section.startswith(("KV_CACHE_", "BUL_")):
                yield section, value, config
            else:
                yield f"KV_CACHE_{section}", value, config
    if found.environment is not None:
        text = (found.folder / found.environment).read_text(errors="replace")
        for line in text.splitlines():
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and name.startswith(("KV_CACHE_", "BUL_")):
                yield name.strip(), value.strip().strip("\"'"), found.environment


def _one(name: str, value: object, source: str) -> tuple[Setting, object]:
    target = _RENAMED.get(name, name)
    if name in _COUNTS:
        note = "it counted entries; set kv_cache.max_memory_mb, which bounds what they take"
        return Setting(name, value, source, "", note), None
    if any(word in name for word in _SECRET):
        return Setting(name, "(hidden)", source, "", "secrets stay where they are kept"), None
    if target not in VARIABLES:
        return Setting(name, value, source, "", "it has no effect in this version"), None
    note = "" if target == name else f"renamed to {target}"
    if target == "KV_CACHE_STRATEGY":
        value, note = _strategy(value, note)
    try:
        VARIABLES[target].read(value)
    except (ValueError, ConfigError) as error:
        return Setting(name, value, source, "", f"refused: it {error}"), None
    return Setting(name, value, source, target, note), value


def _strategy(value: object, note: str) -> tuple[object, str]:
    """The original's adaptive was LFU whatever it was called; its other names were LRU."""
    wanted = str(value).rpartition(".")[2].lower()
    if wanted in STRATEGIES:
        return wanted, note
    kept = "lfu" if wanted == "adaptive" else "lru"
    return kept, f"{wanted} is not in this version; {kept} is what it did"


def _place(variable: str) -> tuple[str, str, str]:
    for prefix, section in _SECTIONS.items():
        if variable.startswith(prefix + "_"):
            return section, ".", variable.removeprefix(prefix + "_").lower()
    raise AssertionError(variable)
