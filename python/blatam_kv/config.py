"""Settings of the service: defaults, then the file, then the environment, then the command line.

One rule names a setting everywhere: the environment variable ``BUL_API_PORT`` is ``api_port`` in
the section ``bul`` of the file, ``KV_CACHE_STRATEGY`` is ``strategy`` in the section ``kv_cache``.
A name that nobody knows is an error with a suggestion. So is a name of the original system that
has no effect here yet: a switch that does nothing would be a lie.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blatam_kv.codecs import NAMES as CODECS
from blatam_kv.errors import ConfigError, MissingExtra

STRATEGIES = (
    *("lru", "lfu", "fifo", "s3fifo", "sieve", "tinylfu", "arc", "lirs", "gdsf"),
    *("density", "adaptive", "pattern"),
)
LOCAL_DTYPES = ("auto", "bfloat16", "float16", "float32")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
MODELS = ("mini", "local", "openai")


def default_data_dir() -> Path:
    """Where state lives when nobody says otherwise: XDG_DATA_HOME/blatam-kv."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "blatam-kv"


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that shows itself to nobody who does not ask for it by name."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The text. Never put it into a message."""
        return self._text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service runs with. cache_ttl is in seconds; None keeps answers until evicted.

    max_queued_tasks: answers that may wait to be written; of one tenant, max_queued_per_tenant.
    max_unfinished_tasks: tasks that may wait for them. queue_ageing: seconds of waiting that make a
    task one level more urgent. task_timeout: seconds that writing one answer may take.
    retry_attempts: how often an answer that failed is tried again, first after retry_delay seconds.
    continuous_mode: False waits for POST /processor/start. drain_seconds: what a stop may take.

    database_url: None is SQLite in data_dir. max_kept_tasks: finished ones of each tenant, for at
    most keep_days.

    hmac_secret: what all keys are derived from, None for the one in the data directory.
    allowed_hosts: further names the service answers to. trusted_proxies: networks whose
    X-Forwarded-For is believed. rate_limit_requests: of a tenant and class of route in
    rate_limit_window seconds.

    cache_persistence: whether answers outlive the process, in cache_persistence_path (``answers`` in
    data_dir), where they take at most cache_max_disk_mb MiB.

    kv_memory_mb, kv_disk_mb: MiB for keys and values of prompts, in memory and in data_dir; 0 keeps
    none there, a disk of None is 8 times the memory and at most half of what is free.

    model: what writes. The ``local_`` and ``openai_`` settings belong to the models of those names.
    local_model is a folder, local_device as torch names it; timeouts are in seconds; context_tokens
    of None asks the folder or the endpoint.
    """

    api_host: str = "127.0.0.1"
    api_port: int = 8002
    log_level: str = "info"
    data_dir: Path = field(default_factory=default_data_dir)
    output_directory: Path = Path("demo-output")
    cache_ttl: float | None = 3600.0
    cache_strategy: str = "adaptive"
    cache_max_memory_mb: int = 256
    cache_persistence: bool = False
    cache_persistence_path: Path | None = None
    cache_max_disk_mb: int = 1024
    max_concurrent_tasks: int = 2
    max_queued_tasks: int = 4000
    max_queued_per_tenant: int = 2000
    max_unfinished_tasks: int = 10_000
    queue_ageing: float = 60.0
    task_timeout: float = 300.0
    retry_attempts: int = 3
    retry_delay: float = 5.0
    continuous_mode: bool = True
    drain_seconds: float = 15.0
    database_url: Secret | None = None
    max_kept_tasks: int = 10_000
    keep_days: float = 30.0
    hmac_secret: Secret | None = None
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    rate_limit_enabled: bool = True
    rate_limit_requests: int = 6000
    rate_limit_window: float = 60.0
    kv_memory_mb: int = 256
    kv_disk_mb: int | None = None
    kv_codec: str = "raw"
    kv_policy: str = "adaptive"
    model: str = "mini"
    local_model: Path | None = None
    local_dtype: str = "auto"
    local_device: str = "cpu"
    local_context_tokens: int | None = None
    openai_base_url: str | None = None
    openai_model: str | None = None
    openai_api_key: Secret | None = None
    openai_context_tokens: int | None = None
    openai_connect_timeout: float = 5.0
    openai_read_timeout: float = 120.0
    openai_total_timeout: float = 600.0
    openai_attempts: int = 4


Reader = Callable[[object], object]


def _integer(low: int, high: int) -> Reader:
    def read(value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def _choice(allowed: tuple[str, ...], *, later: tuple[str, ...] = ()) -> Reader:
    def read(value: object) -> str:
        name = value.strip().lower() if isinstance(value, str) else ""
        if name in later:
            raise ValueError(f"{name!r} is not in this version; use one of {', '.join(allowed)}")
        if name not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}{did_you_mean(name, allowed)}")
        return name

    return read


def _seconds(value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) else -1.0
    except ValueError:
        seconds = -1.0
    if isinstance(value, bool) or not 0 < seconds < 1e9:
        raise ValueError("must be a number of seconds above 0, or 'none' to keep for ever")
    return seconds


def _timeout(value: object) -> float:
    try:
        seconds = _seconds(value)
    except ValueError:
        seconds = None
    if seconds is None:
        raise ValueError("must be a number of seconds above 0")
    return seconds


def _switch(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _texts(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be texts with commas between them")
    return tuple(item.strip() for item in items if item.strip())


def _networks(value: object) -> tuple[str, ...]:
    from ipaddress import ip_network

    try:
        return tuple(str(ip_network(text)) for text in _texts(value))
    except ValueError:
        raise ValueError("must be networks such as 10.0.0.0/8, with commas between them") from None


def _secret(value: object) -> Secret:
    return Secret(_text(value))


def _secret_file(value: object) -> Secret:
    path = _directory(value)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"names a file that cannot be read as text ({reason})") from error
    if not text:
        raise ValueError("names an empty file")
    return Secret(text)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def _directory(value: object) -> Path:
    if isinstance(value, Path):
        return value
    return Path(_text(value)).expanduser()


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: the field it fills, how a value from outside is read, and whether it may show."""

    field: str
    read: Reader
    secret: bool = False


# Strategies of the original that come with later versions; asking for one is a clear error.
_LATER_STRATEGIES = ("paged", "compressed", "quantized")

VARIABLES: Mapping[str, Variable] = {
    "BUL_API_HOST": Variable("api_host", _text),
    "BUL_API_PORT": Variable("api_port", _integer(0, 65535)),
    "BUL_LOG_LEVEL": Variable("log_level", _choice(LOG_LEVELS)),
    "BUL_DATA_DIR": Variable("data_dir", _directory),
    "BUL_OUTPUT_DIRECTORY": Variable("output_directory", _directory),
    "BUL_CACHE_TTL": Variable("cache_ttl", _seconds),
    "BUL_MAX_CONCURRENT_TASKS": Variable("max_concurrent_tasks", _integer(1, 64)),
    "BUL_MAX_QUEUED_TASKS": Variable("max_queued_tasks", _integer(1, 100_000)),
    "BUL_MAX_QUEUED_PER_TENANT": Variable("max_queued_per_tenant", _integer(1, 100_000)),
    "BUL_MAX_UNFINISHED_TASKS": Variable("max_unfinished_tasks", _integer(1, 1_000_000)),
    "BUL_QUEUE_AGEING": Variable("queue_ageing", _timeout),
    "BUL_TASK_TIMEOUT": Variable("task_timeout", _timeout),
    "BUL_RETRY_ATTEMPTS": Variable("retry_attempts", _integer(0, 100)),
    "BUL_RETRY_DELAY": Variable("retry_delay", _timeout),
    "BUL_CONTINUOUS_MODE": Variable("continuous_mode", _switch),
    "BUL_DRAIN_SECONDS": Variable("drain_seconds", _timeout),
    "BUL_DATABASE_URL": Variable("database_url", _secret, secret=True),
    "BUL_MAX_KEPT_TASKS": Variable("max_kept_tasks", _integer(1, 10_000_000)),
    "BUL_KEEP_DAYS": Variable("keep_days", _timeout),
    "BUL_KV_MEMORY_MB": Variable("kv_memory_mb", _integer(0, 1_000_000)),
    "BUL_KV_DISK_MB": Variable("kv_disk_mb", _integer(0, 100_000_000)),
    "BUL_KV_CODEC": Variable("kv_codec", _choice(CODECS)),
    "BUL_KV_POLICY": Variable("kv_policy", _choice(STRATEGIES)),
    "BUL_MODEL": Variable("model", _choice(MODELS)),
    "BUL_HMAC_SECRET": Variable("hmac_secret", _secret, secret=True),
    "BUL_HMAC_SECRET_FILE": Variable("hmac_secret", _secret_file),
    "BUL_ALLOWED_HOSTS": Variable("allowed_hosts", _texts),
    "BUL_TRUSTED_PROXIES": Variable("trusted_proxies", _networks),
    "BUL_RATE_LIMIT_ENABLED": Variable("rate_limit_enabled", _switch),
    "BUL_RATE_LIMIT_REQUESTS": Variable("rate_limit_requests", _integer(1, 1_000_000_000)),
    "BUL_RATE_LIMIT_WINDOW": Variable("rate_limit_window", _timeout),
    "BUL_LOCAL_MODEL": Variable("local_model", _directory),
    "BUL_LOCAL_DTYPE": Variable("local_dtype", _choice(LOCAL_DTYPES)),
    "BUL_LOCAL_DEVICE": Variable("local_device", _text),
    "BUL_LOCAL_CONTEXT_TOKENS": Variable("local_context_tokens", _integer(64, 100_000_000)),
    "BUL_OPENAI_BASE_URL": Variable("openai_base_url", _text),
    "BUL_OPENAI_MODEL": Variable("openai_model", _text),
    "BUL_OPENAI_API_KEY": Variable("openai_api_key", _secret, secret=True),
    "BUL_OPENAI_API_KEY_FILE": Variable("openai_api_key", _secret_file),
    "BUL_OPENAI_CONTEXT_TOKENS": Variable("openai_context_tokens", _integer(64, 100_000_000)),
    "BUL_OPENAI_CONNECT_TIMEOUT": Variable("openai_connect_timeout", _timeout),
    "BUL_OPENAI_READ_TIMEOUT": Variable("openai_read_timeout", _timeout),
    "BUL_OPENAI_TOTAL_TIMEOUT": Variable("openai_total_timeout", _timeout),
    "BUL_OPENAI_ATTEMPTS": Variable("openai_attempts", _integer(1, 100)),
    "KV_CACHE_STRATEGY": Variable("cache_strategy", _choice(STRATEGIES, later=_LATER_STRATEGIES)),
    "KV_CACHE_MAX_MEMORY_MB": Variable("cache_max_memory_mb", _integer(1, 1_000_000)),
    "KV_CACHE_ENABLE_PERSISTENCE": Variable("cache_persistence", _switch),
    "KV_CACHE_PERSISTENCE_PATH": Variable("cache_persistence_path", _directory),
    "KV_CACHE_MAX_DISK_MB": Variable("cache_max_disk_mb", _integer(1, 4_000_000)),
}

# The original's field names for two of them, accepted in the file.
_ALIASES = {"KV_CACHE_CACHE_STRATEGY": "KV_CACHE_STRATEGY"}

# Names the original documents that change nothing in this version.
_NO_EFFECT_BUL = """
    DEBUG API_WORKERS CACHE_ENABLED API_KEY_REQUIRED API_KEY AUTO_SAVE_INTERVAL MAX_DOCUMENT_SIZE
    BACKUP_ENABLED COMPRESSION_ENABLED ENABLED_AREAS
"""
_NO_EFFECT_KV_CACHE = """
    ENABLED SIZE MAX_TOKENS COMPRESSION USE_COMPRESSION COMPRESSION_RATIO COMPRESSION_METHOD
    ENABLE_PREFETCH PREFETCH_SIZE ENABLE_PROFILING NUM_HEADS
    HEAD_DIM BLOCK_SIZE CACHE_MODE USE_QUANTIZATION QUANTIZATION_BITS ENABLE_GC GC_THRESHOLD
    PIN_MEMORY NON_BLOCKING DTYPE ADAPTIVE_COMPRESSION ADAPTIVE_QUANTIZATION MONITOR_MEMORY
    ENABLE_DISTRIBUTED DISTRIBUTED_BACKEND MULTI_TENANT TENANT_ISOLATION ENABLE_ASYNC
    ASYNC_THREADS ENABLE_WARMUP WARMUP_SAMPLES
"""
_NO_EFFECT = frozenset(f"BUL_{name}" for name in _NO_EFFECT_BUL.split()) | frozenset(
    f"KV_CACHE_{name}" for name in _NO_EFFECT_KV_CACHE.split()
)

# Where the service is, for the gateway in front of it.
_ELSEWHERE = frozenset({"BUL_ENDPOINT"})

# The one name without a prefix that has an effect, where the one with it is not set.
_DATABASE = "DATABASE_URL"

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
    if _DATABASE in environ and f"BUL_{_DATABASE}" not in environ:
        variable = VARIABLES[f"BUL_{_DATABASE}"]
        _put(values, variable, environ[_DATABASE], where=f"environment variable {_DATABASE}")
    for name in sorted(environ):
        if not name.startswith(tuple(_SECTIONS.values())) or name in _ELSEWHERE:
            continue
        where = f"environment variable {name}"
        if name in VARIABLES:
            _put(values, VARIABLES[name], environ[name], where=where)
            said[VARIABLES[name].field] = where
            continue
        if name in _NO_EFFECT:
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
            name = _ALIASES.get(name, name)
            if name in VARIABLES:
                _put(values, VARIABLES[name], value, where=where)
                said[VARIABLES[name].field] = where
            elif name in _NO_EFFECT:
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
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{file} is not valid JSON: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{file} is nested too deep") from error
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("PyYAML", extra="server") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
