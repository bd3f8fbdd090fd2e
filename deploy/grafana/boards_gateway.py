"""What the gateway's dashboard shows."""

from __future__ import annotations

from boards_parts import Board, Job, Panel

_GATEWAY = Job("gateway")
_REQUESTS = "gateway_request_duration_seconds_count"


def _percentiles(name: str) -> dict[str, str]:
    return {
        f"{{{{system}}}}, P{q}": _GATEWAY.quantile(q / 100, name, "system") for q in (50, 95, 99)
    }


GATEWAY = Board(
    "blatam-kv-gateway",
    "BUL gateway",
    "What passes through the gateway, and how the systems behind it are.",
    {
        "Now": (
            Panel(
                "Gateways",
                "Gateways that answer.",
                "none",
                {"up": _GATEWAY.gauge("up")},
                single=True,
            ),
            Panel(
                "Systems that are well",
                "By their last health check.",
                "percentunit",
                {"well": _GATEWAY.gauge("gateway_system_up", how="avg")},
                single=True,
            ),
            Panel(
                "Open circuits",
                "Systems that are not asked for a while.",
                "none",
                {"open": _GATEWAY.gauge("gateway_circuit_open")},
                single=True,
            ),
            Panel(
                "Passing requests",
                "To all systems.",
                "reqps",
                {"requests": _GATEWAY.rate(_REQUESTS)},
                single=True,
            ),
            Panel(
                "Begun within, P95",
                "19 of 20 answers begin sooner.",
                "s",
                {"P95": _GATEWAY.quantile(0.95, "gateway_first_byte_seconds")},
                single=True,
            ),
            Panel(
                "Requests under way",
                "At all systems.",
                "none",
                {"requests": _GATEWAY.gauge("gateway_active_requests")},
                single=True,
            ),
        ),
        "Traffic": (
            Panel(
                "Requests by system",
                "With the status of their answers; 502 to 504 may be the gateway's own.",
                "reqps",
                {"{{system}}: {{status}}": _GATEWAY.rate(_REQUESTS, "system, status")},
            ),
            Panel(
                "Unanswered requests",
                "By system and reason.",
                "reqps",
                {
                    "{{system}}: {{reason}}": _GATEWAY.rate(
                        "gateway_errors_total", "system, reason"
                    ),
                    "{{system}}: sent again": _GATEWAY.rate("gateway_retries_total", "system"),
                },
            ),
            Panel(
                "Until the first byte",
                "How long the systems take to begin an answer.",
                "s",
                _percentiles("gateway_first_byte_seconds"),
            ),
            Panel(
                "Until the last byte",
                "With the body at the pace of the slower side, streams included.",
                "s",
                _percentiles("gateway_request_duration_seconds"),
            ),
        ),
        "Systems": (
            Panel(
                "Health",
                "1 while the last check found a system well.",
                "none",
                {"{{system}}": _GATEWAY.gauge("gateway_system_up", "system", "min")},
            ),
            Panel(
                "Health checks",
                "By what they found.",
                "ops",
                {
                    "{{system}}: {{outcome}}": _GATEWAY.rate(
                        "gateway_health_checks_total", "system, outcome"
                    )
                },
            ),
            Panel(
                "Time of a health check",
                "Of the last one.",
                "s",
                {"{{system}}": _GATEWAY.gauge("gateway_health_check_seconds", "system", "max")},
            ),
            Panel(
                "Circuits",
                "1 while a system is not asked.",
                "none",
                {"{{system}}": _GATEWAY.gauge("gateway_circuit_open", "system", "max")},
            ),
            Panel(
                "Connections",
                "In use, and kept for the next request.",
                "none",
                {
                    "{{system}}: in use": _GATEWAY.gauge("gateway_active_requests", "system"),
                    "{{system}}: kept": _GATEWAY.gauge("gateway_idle_connections", "system"),
                },
            ),
            Panel(
                "Refused at its own doors",
                "By the stage that refused them.",
                "reqps",
                {"{{stage}}: {{reason}}": _GATEWAY.rate("gateway_rejected_total", "stage, reason")},
            ),
        ),
    },
    job="gateway",
)
