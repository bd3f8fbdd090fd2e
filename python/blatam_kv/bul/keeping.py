"""Where answers are kept, as the settings have it: in memory, on disk behind that, on other nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blatam_kv.bul.answers import open_shelf
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.shared import Shared
from blatam_kv.cache import Cache
from blatam_kv.config import Settings
from blatam_kv.truthgpt.protocol import TruthGPT

if TYPE_CHECKING:
    from blatam_kv.tiers.redis import RedisTier


def open_pipeline(
    model: TruthGPT,
    settings: Settings,
    *,
    redis: RedisTier | None,
    cleared: Callable[[], object],
) -> Pipeline:
    """The pipeline of a model, after it forgot what other nodes dropped while this one was away.

    redis: where nodes share answers, closed with the pipeline; None for a node that is alone. cleared:
    called, by a thread of its own, when another node has forgotten everything, and this one's answers
    are gone as well.
    """
    cache: Cache[bytes, Answer] = Cache(
        capacity_bytes=settings.cache_max_memory_mb << 20,
        sizeof=lambda answer: answer.size_bytes,
        policy=settings.cache_strategy,
        ttl=settings.cache_ttl,
    )
    shelf = open_shelf(cache, settings)
    pipeline = Pipeline(model, cache, shelf=shelf, ttl=settings.cache_ttl)
    if redis is None:
        return pipeline

    def clear() -> None:
        pipeline.clear_here()
        cleared()

    pipeline.shared = Shared(
        redis,
        ttl=settings.cache_ttl,
        cleared=clear,
        doubted=pipeline.clear_here,
        dropped=pipeline.forget_here,
        place=None if shelf is None else settings.data_dir / "drops",
    )
    pipeline.shared.catch_up()
    return pipeline
