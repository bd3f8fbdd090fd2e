"""``policy`` and ``pins``: what the running service's cache keeps, seen and changed."""

from __future__ import annotations

from urllib.parse import quote

from blatam_kv.cli.remote import connect
from blatam_kv.cli.report import show
from blatam_kv.config import Settings

_POLICY, _PINS = "/api/v1/kv-cache/policy", "/cache/pins"


def policy(url: str, settings: Settings, *, wanted: str | None, as_json: bool) -> int:
    """Which policy decides what leaves; wanted: let that one decide from here on."""
    with connect(url, settings) as client:
        if wanted is None:
            report = client.request("GET", _POLICY).json("policy", "policies")
        else:
            report = client.request("PUT", f"{_POLICY}/{quote(wanted, safe='')}").json("policy")
    if as_json:
        show(report, as_json=True)
    elif wanted is None:
        print(f"{report['policy']} (the settings say {report['configured']})")
        print(f"there are {', '.join(report['policies'])}")
    else:
        took = 1000 * report["seconds"]
        print(f"{report['policy']} decides, {report['before']} did; changed in {took:.1f} ms")
    return 0


def pins(url: str, settings: Settings, *, as_json: bool) -> int:
    """What is pinned."""
    with connect(url, settings) as client:
        report = client.request("GET", _PINS).json("pins", "limit_bytes")
    if as_json:
        show(report, as_json=True)
        return 0
    for each in report["pins"]:
        print(f"{each['document_id']}  {each['bytes']:>9,} B  {each['title']}")
    print(
        f"{report['pinned']:,} pinned in all, {report['bytes']:,} of {report['limit_bytes']:,} bytes"
    )
    return 0


def pin(url: str, settings: Settings, *, document_id: str, as_json: bool) -> int:
    """Keep the answer of a document from being evicted."""
    with connect(url, settings) as client:
        path = f"{_PINS}/{quote(document_id, safe='')}"
        report = client.request("PUT", path).json("document_id")
    if as_json:
        show(report, as_json=True)
    else:
        print(f"pinned {report['title']!r}, {report['bytes']:,} bytes")
    return 0


def unpin(url: str, settings: Settings, *, document_id: str, as_json: bool) -> int:
    """Let go of it."""
    with connect(url, settings) as client:
        reply = client.request("DELETE", f"{_PINS}/{quote(document_id, safe='')}")
        if reply.status != 204:
            reply.json("document_id")  # raises with the reason
    if as_json:
        show({"document_id": document_id, "pinned": False}, as_json=True)
    else:
        print(f"unpinned {document_id}")
    return 0
