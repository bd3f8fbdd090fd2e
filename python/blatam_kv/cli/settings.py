"""``config``: what the service would run with, and who said so."""

from __future__ import annotations

from collections.abc import Mapping

from blatam_kv.cli.report import show
from blatam_kv.config import Settings, described


def config(
    settings: Settings, origins: Mapping[str, str], *, show_origin: bool, as_json: bool
) -> int:
    """Print every setting; a secret is only said to be set."""
    lines = described(settings, origins)
    if as_json:
        show({"settings": lines}, as_json=True)
        return 0
    names = max(len(str(line["setting"])) for line in lines)
    values = max(len(_text(line["value"])) for line in lines)
    for line in lines:
        text = f"{line['setting']:<{names}}  {_text(line['value']):<{values}}"
        print(f"{text}  {line['origin']}" if show_origin else text.rstrip())
    return 0


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "(none)"
    return str(value)
