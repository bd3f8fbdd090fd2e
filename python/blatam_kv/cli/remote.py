"""``stats``, ``health`` and ``clear``: questions to the running service."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from blatam_kv.bul.security import open_keys
from blatam_kv.bul.security.keys import LOCAL_KEY_ID
from blatam_kv.bul.security.master import FILE
from blatam_kv.cli.report import show
from blatam_kv.client import Client
from blatam_kv.config import Settings

API_KEY = "BLATAM_KV_API_KEY"
# As addresses to connect to, the last two mean this machine as well.
_HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")
_HEALTH = "/api/v1/kv-cache/health"


def connect(url: str, settings: Settings) -> Client:
    """A client that may ask: with the API key of the environment, else with the local key.

    Whoever can read the data directory of a service on this machine may administer it.
    """
    if api_key := os.environ.get(API_KEY):
        return Client(url, api_key=api_key)
    here = (urlsplit(url).hostname or "") in _HERE
    if here and (settings.hmac_secret is not None or readable(settings.data_dir / FILE)):
        keys = open_keys(settings)
        return Client(url, key_id=LOCAL_KEY_ID, signing_key=keys.local_signing_key())
    return Client(url)


def readable(path: Path) -> bool:
    """Whether the file is there for us."""
    return os.access(path, os.R_OK)


def stats(url: str, settings: Settings, *, as_json: bool) -> int:
    """What the service and its cache have done."""
    with connect(url, settings) as client:
        report = {
            "service": client.request("GET", "/stats").json("total_tasks"),
            "cache": client.request("GET", "/api/v1/kv-cache/stats").json("hit_rate"),
        }
    show(report, as_json=as_json)
    return 0


def health(url: str, settings: Settings, *, as_json: bool) -> int:
    """Exit status 0 if healthy, 1 if not."""
    with connect(url, settings) as client:
        reply = client.request("GET", _HEALTH)
    report = reply.json("status", "components")
    show(report, as_json=as_json)
    return 0 if reply.status == 200 else 1


def clear(url: str, settings: Settings, *, as_json: bool) -> int:
    """Forget every cached answer."""
    with connect(url, settings) as client:
        report = client.request("POST", "/api/v1/kv-cache/clear").json("cleared")
    if as_json:
        show(report, as_json=True)
    else:
        print(f"forgot {report['cleared']} cached answers")
    return 0
