"""What the service runs with: every setting, its unit and its default."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

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
    otel: whether traces are sent, to where OTEL_… say.

    redis_url: where nodes share answers; None for nowhere. database_url: None is SQLite in data_dir. max_kept_tasks: finished ones of each tenant, for at
    most keep_days.

    hmac_secret: what all keys are derived from, None for the one in the data directory.
    allowed_hosts: further names the service answers to. trusted_proxies: networks whose
    X-Forwarded-For is believed. rate_limit_requests: of a tenant and class of route in
    rate_limit_window seconds. callback_allow: networks that callbacks may go to, besides the public
    internet.

    cache_persistence: whether answers outlive the process, in cache_persistence_path (``answers`` in
    data_dir), where they take at most cache_max_disk_mb MiB.

    backup_enabled: whether what is kept on disk is backed up every backup_interval_hours into
    backup_dir (``backups`` in data_dir), compressed, and encrypted with what is in backup_key_file, if
    that is asked for. The newest backup_keep are kept, for at most backup_retention_days.

    kv_memory_mb, kv_disk_mb: MiB for keys and values of prompts, in memory and in data_dir; 0 keeps
    none there, a disk of None is 8 times the memory and at most half of what is free. kv_redis_url:
    where nodes share them; None for nowhere.

    model: what writes. The ``local_`` and ``openai_`` settings belong to the models of those names.
    local_model is a folder, local_device as torch names it; timeouts are in seconds; context_tokens
    of None asks the folder or the endpoint. devices: those that a model runs on which runs here,
    "auto" for all GPUs; none is the one of local_device. local_gpu_pool_mb: MiB of each of them for
    beginnings of prompts, where the model is local. openai_base_url: several have commas between
    them.
    """

    api_host: str = "127.0.0.1"
    api_port: int = 8002
    log_level: str = "info"
    data_dir: Path = field(default_factory=default_data_dir)
    output_directory: Path = Path("demo-output")
    cache_ttl: float | None = 3600.0
    cache_strategy: str = "adaptive"
    cache_max_memory_mb: int = 256
    cache_persistence: bool = True
    cache_persistence_path: Path | None = None
    cache_max_disk_mb: int = 1024
    backup_enabled: bool = False
    backup_dir: Path | None = None
    backup_interval_hours: float = 6.0
    backup_retention_days: float = 30.0
    backup_keep: int = 120
    backup_compress: bool = False
    backup_key_file: Path | None = None
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
    otel: bool = False
    database_url: Secret | None = None
    redis_url: Secret | None = None
    max_kept_tasks: int = 10_000
    keep_days: float = 30.0
    hmac_secret: Secret | None = None
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    rate_limit_enabled: bool = True
    rate_limit_requests: int = 6000
    rate_limit_window: float = 60.0
    callback_allow: tuple[str, ...] = ()
    kv_memory_mb: int = 256
    kv_disk_mb: int | None = None
    kv_redis_url: Secret | None = None
    kv_codec: str = "raw"
    kv_policy: str = "adaptive"
    model: str = "mini"
    devices: tuple[str, ...] = ()
    local_model: Path | None = None
    local_dtype: str = "auto"
    local_device: str = "cpu"
    local_context_tokens: int | None = None
    local_gpu_pool_mb: int = 0
    openai_base_url: str | None = None
    openai_model: str | None = None
    openai_api_key: Secret | None = None
    openai_context_tokens: int | None = None
    openai_connect_timeout: float = 5.0
    openai_read_timeout: float = 120.0
    openai_total_timeout: float = 600.0
    openai_attempts: int = 4
