"""What the dashboard of the devices shows: the GPUs, or endpoints, that the model runs on."""

from __future__ import annotations

from boards_parts import Board, Job, Panel

_BUL = Job("bul")
_DEVICE = "{{instance}}: {{gpu}}"
_BY = "instance, gpu"
_TIER = "{{instance}}: {{tier}}"
_PLACE = "instance, tier"
_HIT = 'result="hit"'
# Of the tiers those that lie in the memory of a device.
_ON_DEVICE = f"and on ({_PLACE}) {_BUL.each('kv_gpu_queue_entries')}"


def _of(name: str) -> str:
    return _BUL.each(f"kv_cache_gpu_{name}")


DEVICES = Board(
    "blatam-kv-devices",
    "BUL devices",
    "What the model runs on: how busy each device is, and what it is given.",
    {
        "Now": (
            Panel(
                "In the rotation",
                "Devices that are given work.",
                "none",
                {"in": _BUL.gauge("kv_cache_gpu_in_rotation")},
                single=True,
            ),
            Panel(
                "Out",
                "Devices that failed and wait to be tried again.",
                "none",
                {"out": f"sum (1 - {_of('in_rotation')})"},
                single=True,
            ),
            Panel(
                "Utilisation",
                "Mean of all that can be read.",
                "percentunit",
                {"busy": _BUL.gauge("kv_cache_gpu_utilization_ratio", how="avg")},
                single=True,
            ),
            Panel(
                "In flight",
                "Calls that were given out and are not done.",
                "none",
                {"calls": _BUL.gauge("kv_cache_gpu_in_flight")},
                single=True,
            ),
            Panel(
                "Calls",
                "Given to all of them.",
                "ops",
                {"calls": _BUL.rate("kv_cache_gpu_routed_total")},
                single=True,
            ),
            Panel(
                "Most to least",
                "Tokens of the device that has most to do, for one of the one that has least; 1 is even.",
                "none",
                {
                    "ratio": f"max ({_of('in_flight_tokens')} + {_of('queued_tokens')} + 1) / "
                    f"min ({_of('in_flight_tokens')} + {_of('queued_tokens')} + 1)"
                },
                single=True,
            ),
        ),
        "Devices": (
            Panel(
                "Utilisation of each",
                "Share of time busy, smoothed.",
                "percentunit",
                {_DEVICE: _of("utilization_ratio")},
            ),
            Panel(
                "Memory of each",
                "In use, of what there is.",
                "percentunit",
                {_DEVICE: f"{_of('memory_used_bytes')} / {_of('memory_bytes')}"},
            ),
            Panel("Temperature", "Of the core.", "celsius", {_DEVICE: _of("temperature_celsius")}),
            Panel("Power", "What each draws.", "watt", {_DEVICE: _of("power_watts")}),
        ),
        "Work": (
            Panel(
                "Calls of each",
                "Given to it.",
                "ops",
                {_DEVICE: _BUL.rate("kv_cache_gpu_routed_total", _BY)},
            ),
            Panel(
                "Tokens to do",
                "Left of calls that have begun, and of those that have not.",
                "none",
                {
                    f"{_DEVICE}, begun": _of("in_flight_tokens"),
                    f"{_DEVICE}, waiting": _of("queued_tokens"),
                },
            ),
            Panel(
                "Tokens it had already",
                "Of prompts that were led to where their beginning is; nothing where a store is shared.",
                "none",
                {f"{_DEVICE}, a second": _BUL.rate("kv_cache_gpu_saved_tokens_total", _BY)},
            ),
            Panel(
                "In the rotation, each",
                "1 while it is given work.",
                "none",
                {_DEVICE: _of("in_rotation")},
            ),
            Panel(
                "Failures",
                "Of calls and probes, since the start.",
                "none",
                {_DEVICE: _of("failures_total")},
            ),
            Panel(
                "Looks in vain",
                "How often it could not be read.",
                "ops",
                {_DEVICE: _BUL.rate("kv_cache_gpu_unread_total", _BY)},
            ),
        ),
        "Blocks in device memory": (
            Panel(
                "Blocks found there",
                "Of those that were looked for.",
                "percentunit",
                {
                    _TIER: f"({_BUL.rate('kv_tier_requests_total', _PLACE, _HIT)} / "
                    f"{_BUL.rate('kv_tier_requests_total', _PLACE)}) {_ON_DEVICE}"
                },
            ),
            Panel(
                "Pool in use",
                "By records, and by what moves them; of what was taken when the tier opened.",
                "percentunit",
                {
                    _TIER: f"{_BUL.each('kv_gpu_pool_taken_bytes')} / "
                    f"{_BUL.each('kv_cache_size_limit_bytes')}"
                },
            ),
            Panel(
                "Loads",
                "Into an engine's cache, by what became of them.",
                "ops",
                {
                    f"{_TIER}, {{{{outcome}}}}": _BUL.rate(
                        "kv_gpu_loads_total", f"{_PLACE}, outcome"
                    )
                },
            ),
            Panel(
                "Time of a load",
                "From its beginning until all of it was decoded and looked at, P95.",
                "s",
                {
                    _TIER: "histogram_quantile(0.95, "
                    + _BUL.rate(
                        "kv_tier_operation_duration_seconds_bucket",
                        f"{_PLACE}, le",
                        'operation="load"',
                    )
                    + ")"
                },
            ),
            Panel(
                "Over the bus",
                "Bytes between the host and the device, each way.",
                "Bps",
                {
                    f"{_TIER}, {{{{direction}}}}": _BUL.rate(
                        "kv_gpu_bus_bytes_total", f"{_PLACE}, direction"
                    )
                },
            ),
            Panel(
                "Bytes saved",
                "Of keys and values for each byte that holds them, encoded and decoded.",
                "none",
                {
                    f"{_TIER}, {{{{codec}}}} {{{{operation}}}}": _BUL.rate(
                        "kv_gpu_raw_bytes_total", f"{_PLACE}, codec, operation"
                    )
                    + " / "
                    + _BUL.rate("kv_gpu_encoded_bytes_total", f"{_PLACE}, codec, operation")
                },
            ),
            Panel(
                "Pinned buffers in use",
                "Of those that each direction has.",
                "percentunit",
                {
                    f"{_TIER}, {{{{direction}}}}": f"{_BUL.each('kv_gpu_staging_busy_buffers')} / "
                    f"{_BUL.each('kv_gpu_staging_buffers')}"
                },
            ),
            Panel(
                "Waits for a buffer",
                "Copies up that found none free.",
                "ops",
                {_TIER: _BUL.rate("kv_gpu_staging_waits_total", _PLACE)},
            ),
            Panel(
                "On their way down",
                "Records that left and are not yet below.",
                "none",
                {_TIER: _BUL.each("kv_gpu_queue_entries")},
            ),
            Panel(
                "What became of records",
                "That came up, went down, were lost on the way, or found no room.",
                "ops",
                {f"{_TIER}, {{{{event}}}}": _BUL.rate("kv_gpu_records_total", f"{_PLACE}, event")},
            ),
        ),
    },
)
