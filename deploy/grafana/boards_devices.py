"""What the dashboard of the devices shows: the GPUs, or endpoints, that the model runs on."""

from __future__ import annotations

from boards_parts import Board, Job, Panel

_BUL = Job("bul")
_DEVICE = "{{instance}}: {{gpu}}"
_BY = "instance, gpu"


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
    },
)
