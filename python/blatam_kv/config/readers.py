"""How values that come from outside are read; ValueError says what they must be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

from blatam_kv.config.settings import Secret

Reader = Callable[[object], object]


def integer(low: int, high: int) -> Reader:
    """A whole number."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def choice(allowed: tuple[str, ...], *, later: tuple[str, ...] = ()) -> Reader:
    """One of some names. later: those that a later version will have."""

    def read(value: object) -> str:
        name = value.strip().lower() if isinstance(value, str) else ""
        if name in later:
            raise ValueError(f"{name!r} is not in this version; use one of {', '.join(allowed)}")
        if name not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}{did_you_mean(name, allowed)}")
        return name

    return read


def seconds(value: object) -> float | None:
    """Seconds, or None for ``none``."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else -1.0
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or not 0 < number < 1e9:
        raise ValueError("must be a number of seconds above 0, or 'none' to keep for ever")
    return number


def amount(unit: str) -> Reader:
    """A number above 0 of some unit."""

    def read(value: object) -> float:
        try:
            number = seconds(value)
        except ValueError:
            number = None
        if number is None:
            raise ValueError(f"must be a number of {unit} above 0")
        return number

    return read


timeout = amount("seconds")


def switch(value: object) -> bool:
    """true, yes, on, 1, and their opposites."""
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def texts(value: object) -> tuple[str, ...]:
    """Texts with commas between them, or a list of them."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be texts with commas between them")
    return tuple(item.strip() for item in items if item.strip())


def networks(value: object) -> tuple[str, ...]:
    """As ``texts``: networks."""
    from ipaddress import ip_network

    try:
        return tuple(str(ip_network(each)) for each in texts(value))
    except ValueError:
        raise ValueError("must be networks such as 10.0.0.0/8, with commas between them") from None


def secret(value: object) -> Secret:
    """A text that is not to be shown."""
    return Secret(text(value))


def secret_file(value: object) -> Secret:
    """The content of the file of that name, not to be shown."""
    path = directory(value)
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"names a file that cannot be read as text ({reason})") from error
    if not content:
        raise ValueError("names an empty file")
    return Secret(content)


def text(value: object) -> str:
    """A text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def directory(value: object) -> Path:
    """A path."""
    if isinstance(value, Path):
        return value
    return Path(text(value)).expanduser()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
