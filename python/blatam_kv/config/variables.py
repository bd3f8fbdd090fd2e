"""Every setting by the name it has outside, how it is read, and names that have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blatam_kv.codecs import NAMES as CODECS
from blatam_kv.config.readers import (
    Reader,
    amount,
    choice,
    directory,
    integer,
    networks,
    seconds,
    secret,
    secret_file,
    switch,
    text,
    texts,
    timeout,
)
from blatam_kv.config.settings import LOCAL_DTYPES, LOG_LEVELS, MODELS, STRATEGIES


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting: the field it fills, how a value from outside is read, and whether it may show."""

    field: str
    read: Reader
    secret: bool = False


# Strategies of the original that come with later versions; asking for one is a clear error.
LATER_STRATEGIES = ("paged", "compressed", "quantized")

VARIABLES: Mapping[str, Variable] = {
    "BUL_API_HOST": Variable("api_host", text),
    "BUL_API_PORT": Variable("api_port", integer(0, 65535)),
    "BUL_LOG_LEVEL": Variable("log_level", choice(LOG_LEVELS)),
    "BUL_DATA_DIR": Variable("data_dir", directory),
    "BUL_OUTPUT_DIRECTORY": Variable("output_directory", directory),
    "BUL_CACHE_TTL": Variable("cache_ttl", seconds),
    "BUL_MAX_CONCURRENT_TASKS": Variable("max_concurrent_tasks", integer(1, 64)),
    "BUL_MAX_QUEUED_TASKS": Variable("max_queued_tasks", integer(1, 100_000)),
    "BUL_MAX_QUEUED_PER_TENANT": Variable("max_queued_per_tenant", integer(1, 100_000)),
    "BUL_MAX_UNFINISHED_TASKS": Variable("max_unfinished_tasks", integer(1, 1_000_000)),
    "BUL_QUEUE_AGEING": Variable("queue_ageing", timeout),
    "BUL_TASK_TIMEOUT": Variable("task_timeout", timeout),
    "BUL_RETRY_ATTEMPTS": Variable("retry_attempts", integer(0, 100)),
    "BUL_RETRY_DELAY": Variable("retry_delay", timeout),
    "BUL_CONTINUOUS_MODE": Variable("continuous_mode", switch),
    "BUL_DRAIN_SECONDS": Variable("drain_seconds", timeout),
    "BUL_OTEL": Variable("otel", switch),
    "BUL_DATABASE_URL": Variable("database_url", secret, secret=True),
    "BUL_REDIS_URL": Variable("redis_url", secret, secret=True),
    "BUL_MAX_KEPT_TASKS": Variable("max_kept_tasks", integer(1, 10_000_000)),
    "BUL_KEEP_DAYS": Variable("keep_days", amount("days")),
    "BUL_BACKUP_ENABLED": Variable("backup_enabled", switch),
    "BUL_BACKUP_DIR": Variable("backup_dir", directory),
    "BUL_BACKUP_INTERVAL_HOURS": Variable("backup_interval_hours", amount("hours")),
    "BUL_BACKUP_RETENTION_DAYS": Variable("backup_retention_days", amount("days")),
    "BUL_BACKUP_KEEP": Variable("backup_keep", integer(1, 1_000_000)),
    "BUL_BACKUP_COMPRESS": Variable("backup_compress", switch),
    "BUL_BACKUP_KEY_FILE": Variable("backup_key_file", directory),
    "BUL_KV_MEMORY_MB": Variable("kv_memory_mb", integer(0, 1_000_000)),
    "BUL_KV_DISK_MB": Variable("kv_disk_mb", integer(0, 100_000_000)),
    "BUL_KV_REDIS_URL": Variable("kv_redis_url", secret, secret=True),
    "BUL_KV_CODEC": Variable("kv_codec", choice(CODECS)),
    "BUL_KV_POLICY": Variable("kv_policy", choice(STRATEGIES)),
    "BUL_MODEL": Variable("model", choice(MODELS)),
    "BUL_DEVICES": Variable("devices", texts),
    "BUL_HMAC_SECRET": Variable("hmac_secret", secret, secret=True),
    "BUL_HMAC_SECRET_FILE": Variable("hmac_secret", secret_file),
    "BUL_ALLOWED_HOSTS": Variable("allowed_hosts", texts),
    "BUL_TRUSTED_PROXIES": Variable("trusted_proxies", networks),
    "BUL_RATE_LIMIT_ENABLED": Variable("rate_limit_enabled", switch),
    "BUL_RATE_LIMIT_REQUESTS": Variable("rate_limit_requests", integer(1, 1_000_000_000)),
    "BUL_RATE_LIMIT_WINDOW": Variable("rate_limit_window", timeout),
    "BUL_CALLBACK_ALLOW": Variable("callback_allow", networks),
    "BUL_LOCAL_MODEL": Variable("local_model", directory),
    "BUL_LOCAL_DTYPE": Variable("local_dtype", choice(LOCAL_DTYPES)),
    "BUL_LOCAL_DEVICE": Variable("local_device", text),
    "BUL_LOCAL_CONTEXT_TOKENS": Variable("local_context_tokens", integer(64, 100_000_000)),
    "BUL_LOCAL_GPU_POOL_MB": Variable("local_gpu_pool_mb", integer(0, 100_000_000)),
    "BUL_OPENAI_BASE_URL": Variable("openai_base_url", text),
    "BUL_OPENAI_MODEL": Variable("openai_model", text),
    "BUL_OPENAI_API_KEY": Variable("openai_api_key", secret, secret=True),
    "BUL_OPENAI_API_KEY_FILE": Variable("openai_api_key", secret_file),
    "BUL_OPENAI_CONTEXT_TOKENS": Variable("openai_context_tokens", integer(64, 100_000_000)),
    "BUL_OPENAI_CONNECT_TIMEOUT": Variable("openai_connect_timeout", timeout),
    "BUL_OPENAI_READ_TIMEOUT": Variable("openai_read_timeout", timeout),
    "BUL_OPENAI_TOTAL_TIMEOUT": Variable("openai_total_timeout", timeout),
    "BUL_OPENAI_ATTEMPTS": Variable("openai_attempts", integer(1, 100)),
    "KV_CACHE_STRATEGY": Variable("cache_strategy", choice(STRATEGIES, later=LATER_STRATEGIES)),
    "KV_CACHE_MAX_MEMORY_MB": Variable("cache_max_memory_mb", integer(1, 1_000_000)),
    "KV_CACHE_ENABLE_PERSISTENCE": Variable("cache_persistence", switch),
    "KV_CACHE_PERSISTENCE_PATH": Variable("cache_persistence_path", directory),
    "KV_CACHE_MAX_DISK_MB": Variable("cache_max_disk_mb", integer(1, 4_000_000)),
}

# The original's field names for two of them, accepted in the file.
ALIASES = {"KV_CACHE_CACHE_STRATEGY": "KV_CACHE_STRATEGY"}

# Names the original documents that change nothing in this version.
_NO_EFFECT_BUL = """
    DEBUG API_WORKERS CACHE_ENABLED API_KEY_REQUIRED API_KEY AUTO_SAVE_INTERVAL MAX_DOCUMENT_SIZE
    COMPRESSION_ENABLED ENABLED_AREAS
"""
_NO_EFFECT_KV_CACHE = """
    ENABLED SIZE MAX_TOKENS COMPRESSION USE_COMPRESSION COMPRESSION_RATIO COMPRESSION_METHOD
    ENABLE_PREFETCH PREFETCH_SIZE ENABLE_PROFILING NUM_HEADS
    HEAD_DIM BLOCK_SIZE CACHE_MODE USE_QUANTIZATION QUANTIZATION_BITS ENABLE_GC GC_THRESHOLD
    PIN_MEMORY NON_BLOCKING DTYPE ADAPTIVE_COMPRESSION ADAPTIVE_QUANTIZATION MONITOR_MEMORY
    ENABLE_DISTRIBUTED DISTRIBUTED_BACKEND MULTI_TENANT TENANT_ISOLATION ENABLE_ASYNC
    ASYNC_THREADS ENABLE_WARMUP WARMUP_SAMPLES
"""
NO_EFFECT = frozenset(f"BUL_{name}" for name in _NO_EFFECT_BUL.split()) | frozenset(
    f"KV_CACHE_{name}" for name in _NO_EFFECT_KV_CACHE.split()
)

# Where the service is, for the gateway in front of it.
ELSEWHERE = frozenset({"BUL_ENDPOINT"})
