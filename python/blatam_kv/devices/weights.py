"""How a balancer weighs, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from blatam_kv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the balancer weighs. All times are seconds."""

    busy: float = 1.0  # how much dearer a GPU is that is always busy
    full: float = 3.0  # and one whose memory is full
    roomy: float = 0.8  # the share of memory up to which it costs nothing
    skew: float = 1.0  # tokens that a GPU may be ahead, for each that it need not compute
    margin: float = 0.1  # by how much another GPU must be cheaper
    block_tokens: int = 64  # that each name of a prefix stands for
    remembered: int = 65_536  # names of prefixes, of all GPUs together
    half_life: float = 2.0  # of utilisation
    stale: float = 10.0  # after which a reading says nothing
    first_pause: float = 1.0  # of a GPU that failed once
    longest_pause: float = 60.0

    def __post_init__(self) -> None:
        for name in ("busy", "full", "skew", "first_pause", "remembered"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("half_life", "stale", "block_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("roomy", "margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 to below 1")
        if not self.longest_pause >= self.first_pause:
            raise ConfigError("longest_pause is shorter than first_pause")
