"""Where settings come from: defaults, then the file, then the environment, then the command line."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blatam_kv.config.readers import did_you_mean
from blatam_kv.config.settings import Secret, Settings
from blatam_kv.config.variables import ALIASES, ELSEWHERE, NO_EFFECT, VARIABLES, Variable
from blatam_kv.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import yaml

# The names without a prefix that have an effect, where the one with it is not set.
_WITHOUT_PREFIX = ("DATABASE_URL", "REDIS_URL")

_MERGE = "tag:yaml.org,2002:merge"
# What yaml raises for a value that its tag or its form promised to be something else: 2026-13-45.
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError)

_SECTIONS = {"bul": "BUL_", "kv_cache": "KV_CACHE_"}


def load(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    origins: dict[str, str] | None = None,
) -> Settings:
    """Settings from all four sources.

    flags: values by field name of ``Settings``; None means "not given". origins: is told where each
    field that is not the default came from. Raises ConfigError with the place, the name and the fix.
    """
    values: dict[str, object] = {}
    said = {} if origins is None else origins
    if file is not None:
        values.update(_from_file(file, said))
    values.update(_from_environment(os.environ if environ is None else environ, said))
    readers = {variable.field: variable for variable in VARIABLES.values()}
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _read(readers[name], value, where=_flag(name))
            said[name] = _flag(name)
    if "model" not in values:
        for name in ("local_model", "openai_base_url", "openai_model"):
            if name in values:
                meant = name.partition("_")[0]
                raise ConfigError(
                    f"{name} is set but the model is {Settings().model}, which ignores it; choose "
                    f"the other one with --model {meant}, BUL_MODEL or bul.model"
                )
    return Settings(**values)  # type: ignore[arg-type]  # each reader returns its field's type


def _flag(field: str) -> str:
    short = {"api_host": "host", "api_port": "port", "output_directory": "output"}
    return "--" + short.get(field, field).replace("_", "-")


def _from_environment(environ: Mapping[str, str], said: dict[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in _WITHOUT_PREFIX:
        if name in environ and f"BUL_{name}" not in environ:
            variable = VARIABLES[f"BUL_{name}"]
            _put(values, variable, environ[name], where=f"environment variable {name}")
    for name in sorted(environ):
        if not name.startswith(tuple(_SECTIONS.values())) or name in ELSEWHERE:
            continue
        where = f"environment variable {name}"
        if name in VARIABLES:
            _put(values, VARIABLES[name], environ[name], where=where)
            said[VARIABLES[name].field] = where
            continue
        if name in NO_EFFECT:
            raise ConfigError(f"{where} has no effect in this version; unset it")
        raise ConfigError(f"{where} is unknown{did_you_mean(name, VARIABLES)}; unset or correct it")
    return values


def _from_file(file: Path, said: dict[str, str]) -> dict[str, object]:
    document = parse_file(file)
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: must hold sections of settings, for example bul: or kv_cache:")
    values: dict[str, object] = {}
    for section, body in document.items():
        if section not in _SECTIONS:
            known = [*_SECTIONS, *(_file_key(name) for name in VARIABLES)]
            hint = did_you_mean(str(section), known) or f"; sections are {', '.join(_SECTIONS)}"
            raise ConfigError(f"{file}: unknown section {section!r}{hint}")
        if not isinstance(body, dict):
            raise ConfigError(f"{file}: {section} must hold settings, one 'name: value' a line")
        for key, value in body.items():
            where = f"{file}: {section}.{key}"
            name = _SECTIONS[section] + str(key).upper()
            name = ALIASES.get(name, name)
            if name in VARIABLES:
                _put(values, VARIABLES[name], value, where=where)
                said[VARIABLES[name].field] = where
            elif name in NO_EFFECT:
                raise ConfigError(f"{where} has no effect in this version; remove it")
            else:
                known = [_file_key(variable) for variable in VARIABLES]
                hint = did_you_mean(f"{section}.{key}", known)
                raise ConfigError(f"{where} is unknown{hint or '; known: ' + ', '.join(known)}")
    return values


def _file_key(variable: str) -> str:
    for section, prefix in _SECTIONS.items():
        if variable.startswith(prefix):
            return f"{section}.{variable.removeprefix(prefix).lower()}"
    raise AssertionError(variable)


def parse_file(file: Path) -> object:
    """What a YAML or JSON file holds. Raises ConfigError, MissingExtra."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot read the configuration {file}: {reason}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error.reason}") from error
    if file.suffix == ".json":
        try:
            return json.loads(text, object_pairs_hook=_once)
        except ValueError as error:
            raise ConfigError(f"{file} is not valid JSON: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{file} is nested too deep") from error
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("PyYAML", extra="server") from error

    try:
        return yaml.load(text, yaml_loader())
    except (yaml.YAMLError, RecursionError, *_UNREADABLE) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error


def yaml_loader() -> type[yaml.SafeLoader]:
    """How YAML is read: safely, and without a name that is there twice, of which one would be lost
    without a word (ValueError)."""
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _once([(key.value, None) for key, _ in node.value if key.tag != _MERGE])
            return super().construct_mapping(node, deep)

    return Once


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs. Raises ValueError for a name that is there twice."""
    for name, count in Counter(str(name) for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name[:80]!r} is there {count} times; remove all but one")
    return dict(pairs)


def _put(values: dict[str, object], variable: Variable, value: object, *, where: str) -> None:
    if variable.field in values:
        raise ConfigError(f"{where} sets {variable.field} a second time; remove one of the two")
    values[variable.field] = _read(variable, value, where=where)


def _read(variable: Variable, value: object, *, where: str) -> object:
    try:
        return variable.read(value)
    except ValueError as error:
        if variable.secret:
            raise ConfigError(f"{where} {error}") from None
        raise ConfigError(f"{where} {error}, not {_short(value)}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def described(settings: Settings, origins: Mapping[str, str]) -> list[dict[str, object]]:
    """Every setting by its name in the file, with its variable, value and origin; no secret shows."""
    lines: list[dict[str, object]] = []
    for name, variable in VARIABLES.items():
        value = getattr(settings, variable.field)
        if isinstance(value, Secret):
            value = "(set)"
        elif isinstance(value, Path):
            value = str(value)
        lines.append(
            {
                "setting": _file_key(name),
                "variable": name,
                "value": list(value) if isinstance(value, tuple) else value,
                "origin": origins.get(variable.field, "default"),
            }
        )
    return lines
