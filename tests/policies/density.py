from __future__ import annotations

from policies.adaptive import Adaptive


class Density(Adaptive):
    RULE = "density"
