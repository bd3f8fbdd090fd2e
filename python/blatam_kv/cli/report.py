"""How a command prints what it found: JSON for programs, aligned lines for people."""

from __future__ import annotations

import json


def show(report: object, *, as_json: bool) -> None:
    """Print a report to standard output."""
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(report, indent=0)))


def _lines(value: object, *, indent: int) -> list[str]:
    if isinstance(value, list):
        return [line for item in value for line in _lines(item, indent=indent)]
    if not isinstance(value, dict):
        return [" " * indent + ("-" if value is None else str(value))]
    lines = []
    width = max((len(str(key)) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, dict | list) and item:
            lines += [" " * indent + str(key), *_lines(item, indent=indent + 2)]
        else:
            text = "-" if item in (None, [], {}) else str(item)
            lines.append(f"{' ' * indent}{key!s:<{width}}  {text}")
    return lines
