"""What the service tells about itself: totals, state, health. Read from any thread, changes nothing.

A tenant sees its own totals. How full a shared cache or queue is would tell it what others do, so
that is for administrators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from blatam_kv.blocks import KVStore
from blatam_kv.bul.backups import Backups
from blatam_kv.bul.caller import ITSELF, Caller, Scope
from blatam_kv.bul.pipeline import Pipeline
from blatam_kv.bul.queue import PriorityQueue
from blatam_kv.bul.steering import Steering
from blatam_kv.bul.tally import Tallies
from blatam_kv.bul.tasks import TaskBook
from blatam_kv.bul.writers import Job, Writers
from blatam_kv.config import Settings
from blatam_kv.devices import DeviceSnapshot
from blatam_kv.metrics import BlocksSnapshot, CacheSnapshot, TierSnapshot
from blatam_kv.tiers import DiskStats
from blatam_kv.tiers.took import Took
from blatam_kv.truthgpt.protocol import HoldsTiers, TruthGPT


class Reports:
    """The reports of one service, made of its parts."""

    def __init__(
        self,
        model: TruthGPT,
        settings: Settings,
        pipeline: Pipeline,
        tasks: TaskBook,
        queue: PriorityQueue[Job],
        writers: Writers,
        tallies: Tallies,
        version: str,
        blocks: KVStore | None,
        backups: Backups,
        database_is_well: Callable[[], bool],
        devices: Callable[[], Sequence[DeviceSnapshot]],
        steering: Steering,
    ) -> None:
        self._model = model
        self._settings = settings
        self._pipeline = pipeline
        self._tasks = tasks
        self._queue = queue
        self._writers = writers
        self._tallies = tallies
        self._version = version
        self._blocks = blocks
        self._shelf = pipeline.shelf
        self._shared = pipeline.shared
        self._backups = backups
        self._database_is_well = database_is_well
        self._devices = devices
        self._steering = steering

    def stats(self, caller: Caller = ITSELF) -> dict[str, object]:
        """Totals since the start for ``GET /stats``: of the caller's tenant, for administrators of
        all."""
        tenant = _visible(caller)
        unfinished = self._tasks.unfinished_of(tenant)
        tally = self._tallies.of(tenant)
        totals = {
            "total_tasks": tally.tasks_finished + unfinished,
            "unfinished_tasks": unfinished,
            **tally.of_tasks(),
            "model": self._model.model_id,
            "version": self._version,
        }
        return totals if tenant is not None else totals | {"queue_depth": len(self._queue)}

    def processor(self, caller: Caller = ITSELF) -> dict[str, object]:
        """The queue and its writers, for ``GET /processor/status``."""
        tenant = _visible(caller)
        report: dict[str, object] = {
            "status": "paused" if self._queue.paused else "running",
            "writers": len(self._writers),
            "unfinished_tasks": self._tasks.unfinished_of(tenant),
            "typical_seconds": round(self._writers.typical_seconds, 3),
        }
        if tenant is not None:
            return report
        depths = self._queue.depths()
        return report | {
            "busy": self._writers.busy,
            "queue_depth": sum(depths.values()),
            "queue_depth_by_priority": {str(priority): depths[priority] for priority in depths},
            "unsaved_tasks": self._tasks.unsaved_count,
            "dropped_tasks": self._tasks.dropped,
        }

    def cache_snapshot(self) -> CacheSnapshot:
        """The cache as the exporter and ``cache_stats`` show it."""
        stats = self._pipeline.cache.stats()
        return CacheSnapshot(
            policy=stats.policy,
            entries=stats.entries,
            memory_bytes=stats.bytes,
            memory_limit_bytes=stats.capacity_bytes or 0,
            evictions=dict(stats.evictions),
            evictions_by_policy=self._steering.evictions(stats),
            pinned_bytes=stats.pinned_bytes,
            hits=stats.hits,
            learned=stats.learned,
        )

    def cache_stats(self, caller: Caller = ITSELF) -> dict[str, object]:
        """The cache's totals for ``GET /api/v1/kv-cache/stats``; what it holds for administrators."""
        now = self.cache_snapshot()
        tenant = _visible(caller)
        requests = self._tallies.of(tenant).of_requests() | {"strategy": now.policy}
        if tenant is not None:
            return requests
        return requests | {
            "entries": now.entries,
            "memory_usage": now.memory_bytes,
            "memory_limit": now.memory_limit_bytes,
            "evictions": dict(now.evictions),
            "learned": None if now.learned is None else asdict(now.learned),
            "blocks": self._blocks_stats(),
        }

    def blocks_snapshot(self) -> BlocksSnapshot | None:
        """The blocks of prompts as the exporter shows them; None where the model keeps none."""
        if self._blocks is None:
            return None
        now = self._blocks.stats()
        return BlocksSnapshot(
            entries=now.blocks,
            memory_bytes=now.bytes,
            memory_limit_bytes=now.capacity_bytes,
            disk_bytes=now.tier.bytes if now.tier is not None else 0,
            tokens_asked=now.tokens_asked,
            tokens_found={
                "memory": now.tokens_from_memory,
                "disk": now.tokens_from_tier - now.tokens_from_far,
            }
            | ({} if now.far is None else {"redis": now.tokens_from_far}),
            recomputed=now.recomputed,
            damaged=now.damaged,
            codec=self._blocks.codec,
            raw_bytes=now.blocks * self._blocks.layout.block_bytes,
            codec_work=self._blocks.codec_work,
        )

    def tier_snapshots(self) -> list[TierSnapshot]:
        """The places where answers and blocks lie, as the exporter shows them."""
        cache = self._pipeline.cache.stats()
        found = [
            TierSnapshot(
                store="answers",
                tier="memory",
                entries=cache.entries,
                bytes=cache.bytes,
                limit_bytes=cache.capacity_bytes or 0,
                lookups={"hit": cache.hits, "miss": cache.misses},
                evicted=cache.evictions["capacity"],
            )
        ]
        if self._shelf is not None:
            failing = self._shelf.failing is not None
            on_disk = _on_disk("answers", self._shelf.stats(), self._shelf.took, failing=failing)
            found.append(on_disk)
        if self._shared is not None:
            redis = self._shared.stats()
            found.append(
                TierSnapshot(
                    store="answers",
                    tier="redis",
                    lookups={"hit": redis.hits, "miss": redis.misses},
                    damaged=redis.damaged,
                    failures=redis.failures,
                    failing=redis.failing is not None,
                    left_alone=redis.left_alone,
                    took=self._shared.took.by_operation(),
                )
            )
        if self._blocks is not None:
            blocks = self._blocks.stats()
            found.append(
                TierSnapshot(
                    store="blocks",
                    tier="memory",
                    entries=blocks.blocks,
                    bytes=blocks.bytes,
                    limit_bytes=blocks.capacity_bytes,
                    evicted=blocks.evicted,
                    damaged=blocks.damaged,
                )
            )
            if blocks.tier is not None:
                failing = blocks.tier.failing is not None
                took = self._blocks.tier_took
                found.append(_on_disk("blocks", blocks.tier, took, failing=failing))
            if (far := blocks.far) is not None:
                found.append(
                    TierSnapshot(
                        store="blocks",
                        tier="redis",
                        lookups={"hit": far.hits, "miss": far.misses},
                        failures={"unavailable": far.failures},
                        failing=far.failing,
                        left_alone=far.left_alone,
                        took=self._blocks.far_took.by_operation(),
                    )
                )
        if isinstance(self._model, HoldsTiers):
            found += self._model.tiers()
        return found

    def _blocks_stats(self) -> dict[str, object] | None:
        now = self.blocks_snapshot()
        if self._blocks is None or now is None:
            return None
        found = sum(now.tokens_found.values())
        return {
            "policy": self._settings.kv_policy,
            "codec": self._blocks.codec,
            "entries": now.entries,
            "memory_usage": now.memory_bytes,
            "memory_limit": now.memory_limit_bytes,
            "disk_usage": now.disk_bytes,
            "tokens_asked": now.tokens_asked,
            "tokens_found": dict(now.tokens_found),
            "hit_rate": round(found / now.tokens_asked, 6) if now.tokens_asked else 0.0,
            "recomputed": now.recomputed,
            "damaged": now.damaged,
        }

    def _persistence(self) -> str:
        on_disk = self._blocks is not None and self._blocks.stats().tier is not None
        blocks = "prefixes are kept on disk, " if on_disk else ""
        return f"{blocks}tasks and documents in the database; {self._answers_kept()}"

    def _answers_kept(self) -> str:
        if self._shelf is None:
            asked = self._settings.cache_persistence
            return "answers are kept in memory" + (", their folder cannot be used" if asked else "")
        failing = self._shelf.failing
        if failing is not None:
            return f"new answers are kept in memory only, the disk says: {failing}"
        return "answers are kept on disk"

    def readiness(self) -> dict[str, str]:
        """What a request needs: each part ``ok``, ``degraded`` (hits are answered), or why not."""
        return (
            {
                "cache": "ok",
                "queue": "stopping" if self._queue.closed else "ok",
                "writers": "ok" if self._writers.alive else "stopped",
                "database": "ok" if self._database_is_well() else "degraded",
            }
            | ({} if self._shared is None else {"redis": self._redis()})
            | self._devices_ready()
        )

    def _devices_ready(self) -> dict[str, str]:
        """Without one the others go on; without any, each is tried when work comes."""
        devices = self._devices()
        well = all(device.in_rotation for device in devices)
        return {"devices": "ok" if well else "degraded"} if devices else {}

    def _devices_told(self) -> str:
        devices = self._devices()
        if not devices:
            return "none that is watched"
        well = sum(device.in_rotation for device in devices)
        return f"{well} of {len(devices)} devices in the rotation"

    def _redis(self) -> str:
        """Without it a node works as if alone."""
        return "ok" if self._shared is None or self._shared.stats().failing is None else "degraded"

    def cache_health(self) -> dict[str, object]:
        """The cache's state, for ``GET /api/v1/kv-cache/health``."""
        now = self.cache_snapshot()
        alive = self._writers.alive
        return {
            "status": "healthy" if alive else "unhealthy",
            "components": {
                "cache": "healthy",
                "writers": "healthy" if alive else "stopped",
                "gpu": self._devices_told(),
                "persistence": self._persistence(),
                "backups": self._backups.health(),
            },
            "metrics": {
                "memory_usage": now.memory_bytes,
                "cache_size": now.entries,
                "active_sessions": self._tasks.unfinished,
            },
        }


def _visible(caller: Caller) -> str | None:
    """The tenant whose figures the caller may see, None for all."""
    return None if caller.may(Scope.ADMIN) else caller.tenant


def _on_disk(store: str, stats: DiskStats, took: Took | None, *, failing: bool) -> TierSnapshot:
    return TierSnapshot(
        store=store,
        tier="disk",
        entries=stats.entries,
        bytes=stats.bytes,
        limit_bytes=stats.disk_bytes,
        lookups={"hit": stats.hits, "miss": stats.misses},
        evicted=stats.evicted,
        damaged=stats.damaged,
        failures=stats.failures,
        failing=failing,
        took={} if took is None else took.by_operation(),
    )
