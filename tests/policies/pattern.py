from __future__ import annotations

from policies.adaptive import Adaptive


class ByPattern(Adaptive):
    RULE = "pattern"
