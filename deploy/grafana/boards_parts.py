"""What dashboards are made of: panels of curves, and the PromQL that curves are mostly written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. unit: Grafana's name of it. single: the last value as a number. signed: it may
    be below zero."""

    title: str
    description: str
    unit: str
    curves: Mapping[str, str]
    single: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. job: of Prometheus, whose nodes can be chosen."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    job: str = "bul"


@dataclass(frozen=True, slots=True)
class Job:
    """Queries of the chosen nodes of a job."""

    name: str

    @property
    def _here(self) -> str:
        return f'job="{self.name}", instance=~"$instance"'

    def rate(self, name: str, by: str = "", where: str = "") -> str:
        """Of a counter, a second."""
        labels = f"{self._here}, {where}" if where else self._here
        grouped = f" by ({by})" if by else ""
        return f"sum{grouped} (rate({name}{{{labels}}}[$__rate_interval]))"

    def quantile(self, q: float, name: str, by: str = "") -> str:
        """Of a histogram."""
        groups = f"{by}, le" if by else "le"
        return f"histogram_quantile({q}, {self.rate(f'{name}_bucket', groups)})"

    def quantiles(self, name: str) -> dict[str, str]:
        """The usual three."""
        return {f"P{q}": self.quantile(q / 100, name) for q in (50, 95, 99)}

    def gauge(self, name: str, by: str = "", how: str = "sum") -> str:
        """Of all nodes together."""
        return f"{how}{f' by ({by})' if by else ''} ({name}{{{self._here}}})"

    def each(self, name: str) -> str:
        """Of each node."""
        return f"{name}{{{self._here}}}"
