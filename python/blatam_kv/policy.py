"""Eviction policies as Python sees them: their options, and what those that learn have to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from blatam_kv._core import CacheBase, policies
from blatam_kv.errors import ConfigError

LEARNING = ("density", "adaptive", "pattern")
# Entries that shadows follow: of a larger cache they see a sample.
SHADOWS = {"auto": 1 << 14, "full": 1 << 20, "sampled": 1 << 10}
_MOST_SHADOWS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySwitch:
    """One change of leader.

    request: how many requests there had been. regret: hits that had been missed by following
    ``left``; cost: hits that the change was expected to cost, the less of the two. Both are 0 where
    it was the pattern that decided.
    """

    request: int
    left: str
    followed: str
    regret: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReport:
    """What a policy that watches itself has seen. Ratios are of the requests it saw, from 0 to 1.

    leader: the order in which entries leave now. pattern: ``sequential``, ``random`` or ``mixed``.
    requests: uses and insertions, which is how it counts time. sampled: share of the keys that the
    shadows see. shadow_hit_ratios: what each order alone would have hit so far; recent ones: the
    same with older requests fading, half of them after eight capacities. Empty for ``density`` and
    for blocks of prompts, where no shadows run. switches: the last 64 changes of leader, oldest
    first; switched: all. optimum_hit_ratio: about what nobody could have bettered, knowing the
    future. larger_hit_ratio: what a cache ``larger_by`` larger would have hit with ``density``, None
    without shadows.
    """

    leader: str
    pattern: str
    requests: int
    sampled: float
    shadow_hit_ratios: dict[str, float]
    recent_shadow_hit_ratios: dict[str, float]
    switches: list[PolicySwitch]
    switched: int
    optimum_hit_ratio: float
    larger_hit_ratio: float | None
    larger_by: float

    @property
    def gain_if_larger(self) -> float | None:
        """Hit ratio that ``larger_by`` more entries or bytes would add."""
        if self.larger_hit_ratio is None:
            return None
        return max(0.0, self.larger_hit_ratio - self.shadow_hit_ratios["density"])


def report_of(cache: CacheBase[Any, Any]) -> PolicyReport | None:  # Any: whatever it holds
    """What the cache's policy says of itself; None if it does not watch itself."""
    seen = cache._report()
    if seen is None:
        return None
    shadows = seen["shadows"]
    return PolicyReport(
        leader=seen["leader"],
        pattern=seen["pattern"],
        requests=seen["requests"],
        sampled=seen["sampled"],
        shadow_hit_ratios={name: ratio for name, ratio, _ in shadows},
        recent_shadow_hit_ratios={name: ratio for name, _, ratio in shadows},
        switches=[
            PolicySwitch(request=request, left=left, followed=followed, regret=regret, cost=cost)
            for request, left, followed, regret, cost in seen["switches"]
        ],
        switched=seen["switched"],
        optimum_hit_ratio=seen["optimum"],
        larger_hit_ratio=seen["larger"] if shadows else None,
        larger_by=seen["larger_by"],
    )


class Options(TypedDict):
    """As the core takes them."""

    decay: float
    window: float
    interval: float
    shadows: int


def checked_policy(name: object) -> str:
    """The name. Raises ConfigError for one that the core does not know."""
    if name not in policies():
        known = ", ".join(policies())
        raise ConfigError(f"unknown policy {name!r}; choose one of {known}")
    return str(name)


def checked_options(
    names: Sequence[str],
    *,
    decay: float | None = None,
    window: float | None = None,
    interval: float | None = None,
    shadows: int | str | None = None,
) -> Options:
    """What the core needs to make these policies; None stands for "not given".

    Raises ConfigError for a value out of range, and for an option that none of them has.
    """
    return Options(
        decay=_number("decay", decay, names, ("lfu",), most=1, absent=1.0),
        window=_number("window", window, names, ("tinylfu",), most=1, absent=-1.0),
        interval=_number("interval", interval, names, LEARNING[1:], most=100, absent=0.1),
        shadows=_shadows(shadows, names),
    )


def _number(
    name: str,
    value: float | None,
    names: Sequence[str],
    wanted: Sequence[str],
    *,
    most: int,
    absent: float,
) -> float:
    if value is None:
        return absent
    _check_taken(name, names, wanted)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{name} must be above 0 and at most {most}, not {value!r}")
    return float(value)


def _shadows(value: int | str | None, names: Sequence[str]) -> int:
    if value is None:
        return SHADOWS["auto"]
    _check_taken("shadows", names, LEARNING)
    if isinstance(value, str) and value in SHADOWS:
        return SHADOWS[value]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_SHADOWS:
        known = ", ".join(map(repr, SHADOWS))
        raise ConfigError(
            f"shadows must be one of {known} or from 1 to {_MOST_SHADOWS} entries, not {value!r}"
        )
    return value


def _check_taken(name: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    if not set(names) & set(wanted):
        owners = " and ".join(map(repr, wanted))
        raise ConfigError(f"{name} is an option of policy {owners}, not of {', '.join(names)}")
