"""What can go wrong, by name. Every exception the package raises on purpose is one of these.

They also derive from the built-in a Python user would expect to catch (``ValueError``,
``RuntimeError``, ``ImportError``), so that ``except ValueError`` keeps working.
"""

from __future__ import annotations

from enum import StrEnum


class Error(Exception):
    """Root of every error that blatam_kv raises on purpose."""


class InvalidRequest(Error, ValueError):
    """The caller's input is at fault; ``field`` names the part, the message names the fix."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(Error, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class Damage(StrEnum):
    """How bytes were seen not to be a record."""

    TRUNCATED = "it ends too early"
    EXCESS = "bytes follow its end"
    MAGIC = "it does not begin like a record"
    HEADER = "the checksum of its header differs"
    BODY = "the checksum of its body differs"
    VERSION = "its format version is not one this build reads"
    KIND = "its kind is not one this build knows"
    FLAGS = "it has flags this build does not know"
    LIMITS = "its lengths are out of range"
    CODEC = "its codec is not a name"
    KEY = "it belongs to another key"
    MAC = "it was not written by a holder of the key"


class CorruptRecord(Error, ValueError):
    """Stored bytes are not what was written; ``reason`` (a Damage) says how that was noticed."""

    def __init__(self, reason: Damage) -> None:
        super().__init__(f"corrupt record: {reason}")
        self.reason = reason


class CorruptBlob(Error, ValueError):
    """Bytes are not the blob that a codec wrote; ``reason`` says how that was noticed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"corrupt blob: {reason}")
        self.reason = reason


class BackupDamaged(Error, ValueError):
    """A backup is not whole, or not what was written; the message names what is wrong with it."""


class Unsupported(Error, ValueError):
    """A dtype, device, codec or format version that this build cannot handle."""


class Unavailable(StrEnum):
    """Why a tier does not serve."""

    CLOSED = "closed"
    FORKED = "opened before a fork"
    IN_USE = "in use"
    MISSING = "not there"
    READ_ONLY = "read-only"
    NO_SPACE = "no space"
    TOO_MANY_FILES = "too many open files"
    IO_ERROR = "input/output error"
    UNREACHABLE = "cannot be reached"
    TIMED_OUT = "timed out"
    REFUSED = "refused"


class TierUnavailable(Error, RuntimeError):
    """A tier cannot do this now, for ``reason``; a cache above it treats that as a miss."""

    def __init__(self, reason: Unavailable, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeviceTrouble(StrEnum):
    """Why a GPU does not serve."""

    NOT_BUILT = "built without CUDA"
    NO_DRIVER = "no driver"
    DRIVER_TOO_OLD = "driver too old"
    NO_DEVICE = "no device"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    FAILED = "failed"


class DeviceUnavailable(Error, RuntimeError):
    """A GPU cannot do this, for ``reason``; the same work on the CPU is always possible.

    LOST means that no later call in this process can succeed on the device.
    """

    def __init__(self, reason: DeviceTrouble, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingExtra(Error, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with: pip install 'blatam-kv[{extra}]'"
        )
        self.extra = extra


class ModelError(Error, RuntimeError):
    """The language model failed or is unusable (weights missing, context exceeded, ...).

    transient: whether the same request may succeed a little later. elsewhere: whether what failed is
    the place where the model runs, so that another replica of it may do better at once.
    """

    transient = True
    elsewhere = False


class DeviceFailed(ModelError):
    """The device that the model runs on failed, for ``reason``."""

    elsewhere = True

    def __init__(self, reason: DeviceTrouble, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EntryTooLarge(Error, ValueError):
    """A value is larger than the whole cache; nothing was evicted, nothing stored."""


class NoRoom(Error, RuntimeError):
    """What is pinned leaves no room; nothing was evicted, nothing stored."""


class ReentrantComputation(Error, RuntimeError):
    """A computation asked the cache for the very key it computes."""
