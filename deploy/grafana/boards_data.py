"""What the dashboards show: boards of rows of panels of curves, each a legend and its PromQL."""

from __future__ import annotations

from boards_parts import Board, Job, Panel

_BUL = Job("bul")
_rate, _quantile, _quantiles = _BUL.rate, _BUL.quantile, _BUL.quantiles
_gauge, _each = _BUL.gauge, _BUL.each

_HITS = _rate("kv_cache_requests_total", where='status="hit"')
_REQUESTS = _rate("kv_cache_requests_total")
# Who asked the cache not to look is no miss of it.
_LOOKED = _rate("kv_cache_requests_total", where='status!="bypass"')
_HIT_RATIO = f"{_HITS} / ({_LOOKED} > 0)"
_ERROR_RATIO = f"{_rate('kv_cache_errors_total')} / ({_REQUESTS} > 0)"
_PLACE = "{{store}} in {{tier}}"

OVERVIEW = Board(
    "blatam-kv-overview",
    "BUL KV Cache Metrics",
    "Is the service well, and what does the cache save?",
    {
        "Now": (
            Panel("Nodes", "Nodes that answer.", "none", {"up": _gauge("up")}, single=True),
            Panel(
                "Hit rate",
                "Share of requests answered from the cache.",
                "percentunit",
                {"hits": _HIT_RATIO},
                single=True,
            ),
            Panel(
                "Throughput",
                "Requests for an answer.",
                "reqps",
                {"requests": _REQUESTS},
                single=True,
            ),
            Panel(
                "P95",
                "19 of 20 answers come sooner, hits and misses together.",
                "s",
                {"P95": _quantile(0.95, "kv_cache_latency_seconds")},
                single=True,
            ),
            Panel(
                "Errors",
                "Errors for each request.",
                "percentunit",
                {"errors": _ERROR_RATIO},
                single=True,
            ),
            Panel(
                "Waiting",
                "Answers that wait for a writer.",
                "none",
                {"waiting": _gauge("bul_queue_depth")},
                single=True,
            ),
        ),
        "Traffic": (
            Panel(
                "Requests",
                "By what the cache knew.",
                "reqps",
                {"{{status}}": _rate("kv_cache_requests_total", "status")},
            ),
            Panel(
                "Latency",
                "From a valid request to its answer; hits are below a millisecond.",
                "s",
                _quantiles("kv_cache_latency_seconds"),
            ),
            Panel("Hit rate over time", "Of all nodes shown.", "percentunit", {"hits": _HIT_RATIO}),
            Panel(
                "Memory",
                "Of answers; full is what a cache should be.",
                "bytes",
                {
                    "used, {{instance}}": _gauge("kv_cache_memory_usage_bytes", "instance"),
                    "limit, {{instance}}": _gauge("kv_cache_memory_limit_bytes", "instance"),
                },
            ),
            Panel(
                "Exchanges",
                "HTTP requests of each route.",
                "reqps",
                {
                    "{{http_route}}": _rate(
                        "http_server_request_duration_seconds_count", "http_route"
                    )
                },
            ),
            Panel(
                "Refused",
                "By the stage that refused them.",
                "reqps",
                {"{{stage}}: {{reason}}": _rate("bul_rejected_total", "stage, reason")},
            ),
        ),
    },
)

CACHE = Board(
    "blatam-kv-cache",
    "BUL cache and policy",
    "Which order of eviction leads, how near it is to the optimum, and what more memory would add.",
    {
        "Entries": (
            Panel("Answers", "In memory.", "none", {"{{instance}}": _each("kv_cache_entries")}),
            Panel(
                "Evictions",
                "Why answers left.",
                "ops",
                {"{{reason}}": _rate("kv_cache_evictions_total", "reason")},
            ),
        ),
        "Policy": (
            Panel(
                "Leader",
                "1 for the order that is followed.",
                "none",
                {"{{instance}}: {{policy}}": _each("kv_cache_policy_leader")},
            ),
            Panel(
                "What each order would hit",
                "Of late, as its shadow says, and about what nobody could have bettered.",
                "percentunit",
                {
                    "{{policy}}": _gauge("kv_cache_shadow_hit_ratio", "policy", "avg"),
                    "optimum": _gauge("kv_cache_optimum_hit_ratio", how="avg"),
                },
            ),
            Panel(
                "Regret",
                "Hit ratio that the best single order had more since the start; below 0, less.",
                "percentunit",
                {"{{instance}}": _each("kv_cache_policy_regret_ratio")},
                signed=True,
            ),
            Panel(
                "Gain of a quarter more memory",
                "Hit ratio that it would add.",
                "percentunit",
                {"{{instance}}": _each("kv_cache_gain_if_larger")},
            ),
            Panel(
                "Pattern",
                "1 for what the requests look like.",
                "none",
                {"{{instance}}: {{pattern}}": _each("kv_cache_access_pattern")},
            ),
            Panel(
                "Changes of leader",
                "Since the start.",
                "none",
                {"{{instance}}": _each("kv_cache_policy_switches_total")},
            ),
        ),
    },
)

PIPELINE = Board(
    "blatam-kv-pipeline",
    "BUL pipeline",
    "From a request to its document: stages, queue, model.",
    {
        "Stages": (
            Panel(
                "Stages, P95",
                "Where the time goes.",
                "s",
                {"{{stage}}": _quantile(0.95, "bul_stage_duration_seconds", "stage")},
            ),
            Panel(
                "Documents",
                "Rendered, by format.",
                "ops",
                {"{{format}}, {{outcome}}": _rate("bul_documents_total", "format, outcome")},
            ),
            Panel(
                "Rendering, P95",
                "Time of one document, by format.",
                "s",
                {"{{format}}": _quantile(0.95, "bul_document_duration_seconds", "format")},
            ),
            Panel(
                "Exchanges under way",
                "HTTP requests that are being answered, streams included.",
                "none",
                {"{{instance}}": _each("http_server_active_requests")},
            ),
        ),
        "Queue": (
            Panel(
                "Waiting answers",
                "By the priority asked for; 0 is the most urgent.",
                "none",
                {"priority {{priority}}": _gauge("bul_queue_depth", "priority")},
            ),
            Panel(
                "Waits, P95",
                "Until the first try, by the priority asked for.",
                "s",
                {"priority {{priority}}": _quantile(0.95, "bul_queue_wait_seconds", "priority")},
            ),
        ),
        "Model": (
            Panel(
                "Time to first token",
                "What reading the prompt takes.",
                "s",
                _quantiles("gen_ai_server_time_to_first_token_seconds"),
            ),
            Panel(
                "Time of a call",
                "Of those that succeeded and failed.",
                "s",
                _quantiles("gen_ai_server_request_duration_seconds"),
            ),
            Panel(
                "Tokens",
                "Read, written, and read from the cache.",
                "none",
                {
                    "{{gen_ai_token_type}}, a second": _rate(
                        "gen_ai_client_token_usage_sum", "gen_ai_token_type"
                    )
                },
            ),
            Panel(
                "What went wrong",
                "Errors by kind, and answers tried again.",
                "ops",
                {
                    "{{error_type}}": _rate("kv_cache_errors_total", "error_type"),
                    "tried again": _rate("bul_retries_total"),
                },
            ),
        ),
        "Database": (
            Panel(
                "Failures",
                "By what was to be done.",
                "ops",
                {"{{operation}}": _rate("bul_storage_errors_total", "operation")},
            ),
            Panel(
                "Rows to be written",
                "Of finished tasks; they grow while the database is away.",
                "none",
                {"{{instance}}": _each("bul_unsaved_tasks")},
            ),
        ),
    },
)

TIERS = Board(
    "blatam-kv-tiers",
    "BUL tiers",
    "Where answers and blocks of prompts lie, and how well each place serves.",
    {
        "Places": (
            Panel(
                "Size",
                "What lies there.",
                "bytes",
                {_PLACE: _gauge("kv_cache_size_bytes", "store, tier")},
            ),
            Panel(
                "Filling",
                "Of what it may hold.",
                "percentunit",
                {
                    _PLACE: f"{_gauge('kv_cache_size_bytes', 'store, tier')} / "
                    f"{_gauge('kv_cache_size_limit_bytes', 'store, tier')}"
                },
            ),
            Panel(
                "Lookups",
                "Hits and misses of each place; disk and Redis see what memory missed.",
                "ops",
                {
                    f"{_PLACE}: {{{{result}}}}": _rate(
                        "kv_tier_requests_total", "store, tier, result"
                    )
                },
            ),
            Panel(
                "Evictions by place",
                "Entries that left for lack of room.",
                "ops",
                {_PLACE: _rate("kv_tier_evictions_total", "store, tier")},
            ),
            Panel(
                "Damage",
                "Records that failed verification, since the start; each was a miss.",
                "none",
                {_PLACE: _gauge("kv_tier_damaged_total", "store, tier")},
            ),
            Panel(
                "Calls, P95",
                "What disk and Redis take, of one entry or of many.",
                "s",
                {
                    f"{_PLACE}: {{{{operation}}}}": _quantile(
                        0.95, "kv_tier_operation_duration_seconds", "store, tier, operation"
                    )
                },
            ),
            Panel(
                "Failing",
                "1 while what was last asked of it failed.",
                "none",
                {_PLACE: _gauge("kv_tier_failing", "store, tier", "max")},
            ),
        ),
        "Prompts": (
            Panel(
                "Tokens not computed again",
                "Of the tokens looked up, the share that each tier had.",
                "percentunit",
                {
                    "{{tier}}": f"{_rate('kv_blocks_tokens_found_total', 'tier')} / on () group_left () "
                    f"({_rate('kv_blocks_tokens_asked_total')} > 0)"
                },
            ),
            Panel(
                "Compression",
                "Bytes of keys and values for each byte that holds them.",
                "none",
                {"{{codec}}": _gauge("kv_cache_compression_ratio", "codec", "avg")},
            ),
        ),
        "Codec": (
            Panel(
                "Blocks, P95",
                "Time of encoding or decoding one block of a prompt.",
                "s",
                {
                    "{{codec}}: {{operation}}": _quantile(
                        0.95, "kv_codec_duration_seconds", "codec, operation"
                    )
                },
            ),
            Panel(
                "Bytes of blocks",
                "Of keys and values, and of what they are encoded as.",
                "Bps",
                {
                    "{{codec}}: {{operation}}, raw": _rate(
                        "kv_codec_raw_bytes_total", "codec, operation"
                    ),
                    "{{codec}}: {{operation}}, encoded": _rate(
                        "kv_codec_encoded_bytes_total", "codec, operation"
                    ),
                },
            ),
        ),
        "Backups": (
            Panel(
                "Age of the last backup",
                "Of a whole one.",
                "s",
                {"{{instance}}": f"time() - {_each('kv_cache_last_backup_timestamp_seconds')}"},
            ),
            Panel(
                "Backups made",
                "Since the start, by how they went.",
                "none",
                {"{{outcome}}": _gauge("kv_cache_backups_total", "outcome")},
            ),
            Panel(
                "Size of a backup",
                "Of the last one.",
                "bytes",
                {"{{instance}}": _each("kv_cache_last_backup_bytes")},
            ),
            Panel(
                "Time of a backup",
                "What the last one took.",
                "s",
                {"{{instance}}": _each("kv_cache_last_backup_duration_seconds")},
            ),
        ),
        "Process": (
            Panel(
                "Resident memory",
                "Of the process.",
                "bytes",
                {"{{instance}}": _each("process_resident_memory_bytes")},
            ),
            Panel(
                "CPU",
                "Cores in use.",
                "none",
                {"{{instance}}": _rate("process_cpu_seconds_total", "instance")},
            ),
        ),
    },
)

BOARDS = (OVERVIEW, CACHE, PIPELINE, TIERS)
