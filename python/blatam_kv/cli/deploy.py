"""``deploy``: configurations for the servers around the service, printed for redirection into a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from blatam_kv.cli.nginx import nginx
from blatam_kv.errors import ConfigError


def deploy(args: argparse.Namespace) -> int:
    """Print the configuration asked for."""
    text = nginx(
        _listed(args.nodes),
        gateway=args.gateway,
        services=_services(args.service or ()),
        listen=args.listen,
        names=_listed(args.server_name or ""),
        certificate=args.certificate,
        certificate_key=args.certificate_key,
        affinity=args.affinity,
        rate=args.rate,
    )
    print(text, end="")
    return 0


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _services(given: Sequence[str]) -> dict[str, str]:
    services: dict[str, str] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals or name in services:
            raise ConfigError(f"--service: {text!r} must be NAME=HOST:PORT, each name once")
        services[name] = place
    return services
