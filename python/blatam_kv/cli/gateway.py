"""``gateway``: one address in front of all systems."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from blatam_kv import __version__
from blatam_kv.cli.report import show
from blatam_kv.config import Settings
from blatam_kv.gateway.configuration import Configuration, load


def gateway(
    settings: Settings,
    *,
    file: Path | None,
    host: str | None,
    port: int | None,
    check: bool,
    as_json: bool,
) -> int:
    """Serve, or with ``check`` only say what the configuration means. Raises ConfigError."""
    configuration = load(file, os.environ)
    if host is not None:
        configuration = replace(configuration, host=host)
    if port is not None:
        configuration = replace(configuration, port=port)
    if check:
        _show(configuration, as_json=as_json)
        return 0
    from blatam_kv.gateway.serve import serve

    return serve(configuration, settings, file=file, version=__version__)


def _show(configuration: Configuration, *, as_json: bool) -> None:
    systems = [
        {
            "name": system.name,
            "path": system.mount,
            "url": system.url,
            "credentials": system.credentials,
            "health": system.health,
        }
        for system in configuration.systems
    ]
    if as_json:
        show({"systems": systems}, as_json=True)
        return
    for system in systems:
        print("{name:<20} {path:<28} {url:<32} {credentials}".format(**system))
