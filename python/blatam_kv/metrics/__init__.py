"""What the service counts and times, and how Prometheus reads it.

``LatencyHistogram`` answers "what is P99?" inside the process, for ``stats`` and the demo;
``ServiceMetrics`` is one service's Prometheus registry.
"""

from blatam_kv.metrics.models import ModelMetrics
from blatam_kv.metrics.recent import LatencyHistogram, RecentRate
from blatam_kv.metrics.service import ServiceMetrics
from blatam_kv.metrics.snapshots import BackupsSnapshot, BlocksSnapshot, CacheSnapshot
from blatam_kv.metrics.tiers import TierMetrics, TierSnapshot

__all__ = [
    "BackupsSnapshot",
    "BlocksSnapshot",
    "CacheSnapshot",
    "LatencyHistogram",
    "ModelMetrics",
    "RecentRate",
    "ServiceMetrics",
    "TierMetrics",
    "TierSnapshot",
]
