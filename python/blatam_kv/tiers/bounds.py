"""How many bytes a disk tier may take, and in what portions."""

from __future__ import annotations

from dataclasses import dataclass

from blatam_kv.errors import ConfigError
from blatam_kv.record import ALIGNMENT
from blatam_kv.tiers.manifest import MAX_MANIFEST_BYTES
from blatam_kv.tiers.segment import MAX_SEGMENT_BYTES

MIN_DISK_BYTES = 1 << 20
MIN_SEGMENT_BYTES = 1 << 10
MAX_SEGMENTS = 4096
# Two manifests, the old one and the new beside it, and the lock file.
RESERVED_BYTES = 2 * MAX_MANIFEST_BYTES + 4096


@dataclass(frozen=True, slots=True)
class Bounds:
    """disk_bytes: most bytes under the folder. segment_bytes: most bytes of one segment."""

    disk_bytes: int
    segment_bytes: int

    @property
    def checkpoint_bytes(self) -> int:
        """Most bytes of a checkpoint; where it would take more, reading all headers is as quick."""
        return self.disk_bytes // 32

    @property
    def sealed_bytes(self) -> int:
        """Most bytes of sealed segments. Two segments less than there is room for: the head, and
        the one that is sealed before the next is dropped; and the checkpoint twice, old and new."""
        others = RESERVED_BYTES + 2 * self.checkpoint_bytes
        return self.disk_bytes - others - 2 * self.segment_bytes


def bounds(disk_bytes: int | None, segment_bytes: int | None) -> Bounds:
    """Validated; None for the largest bound, and for a fitting segment."""
    if disk_bytes is None:
        disk_bytes = MAX_SEGMENTS * MAX_SEGMENT_BYTES
    for name, value in (("disk_bytes", disk_bytes), ("segment_bytes", segment_bytes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if disk_bytes < MIN_DISK_BYTES:
        raise ConfigError(f"disk_bytes must be at least {MIN_DISK_BYTES}, not {disk_bytes}")
    if segment_bytes is None:
        wanted = max(min(disk_bytes // 16, 64 << 20), disk_bytes // MAX_SEGMENTS)
        segment_bytes = min(wanted, MAX_SEGMENT_BYTES)
    segment_bytes = segment_bytes // ALIGNMENT * ALIGNMENT
    most = min(MAX_SEGMENT_BYTES, (disk_bytes - RESERVED_BYTES) // 4)
    least = max(MIN_SEGMENT_BYTES, -(-disk_bytes // MAX_SEGMENTS))
    if least > most:
        raise ConfigError(f"disk_bytes must be at most {MAX_SEGMENTS * MAX_SEGMENT_BYTES}")
    if not least <= segment_bytes <= most:
        raise ConfigError(
            f"segment_bytes must be from {least} to {most} with disk_bytes={disk_bytes}, "
            f"not {segment_bytes}"
        )
    return Bounds(disk_bytes, segment_bytes)
