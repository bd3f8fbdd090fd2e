"""``stats``, ``health`` and ``clear``: questions to the running service."""

from __future__ import annotations

from blatam_kv.cli.client import Client
from blatam_kv.cli.report import show

_HEALTH = "/api/v1/kv-cache/health"


def stats(url: str, *, as_json: bool) -> int:
    """What the service and its cache have done."""
    with Client(url) as client:
        report = {
            "service": client.request("GET", "/stats").json("total_tasks"),
            "cache": client.request("GET", "/api/v1/kv-cache/stats").json("hit_rate"),
        }
    show(report, as_json=as_json)
    return 0


def health(url: str, *, as_json: bool) -> int:
    """Exit status 0 if healthy, 1 if not."""
    with Client(url) as client:
        reply = client.request("GET", _HEALTH)
    report = reply.json("status", "components")
    show(report, as_json=as_json)
    return 0 if reply.status == 200 else 1


def clear(url: str, *, as_json: bool) -> int:
    """Forget every cached answer."""
    with Client(url) as client:
        report = client.request("POST", "/api/v1/kv-cache/clear").json("cleared")
    if as_json:
        show(report, as_json=True)
    else:
        print(f"forgot {report['cleared']} cached answers")
    return 0
