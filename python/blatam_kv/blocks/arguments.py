"""What callers hand to a store, checked before anything happens."""

from __future__ import annotations

from typing import Any

from blatam_kv import _core, tensors
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.cache import byte_count
from blatam_kv.errors import ConfigError, InvalidRequest, Unsupported

# By default no more than this waits to be written.
_QUEUE_BYTES = 64 << 20


def checked_pair(
    layout: KVLayout, pair: Any, *, writable: bool
) -> tuple[int, Any, Any]:  # Any: whatever tensors the caller has
    """How many tokens two tensors have, and both as the native module reads them.

    pair: (keys, values), each ``[layers, tokens, kv_heads, head_dim]``. Raises InvalidRequest, with
    the name of the tensor as its field, or Unsupported for a dtype or device.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidRequest("out must be two tensors, (keys, values)", field="out")
    keys = _checked(layout, "keys", pair[0], writable=writable)
    values = _checked(layout, "values", pair[1], writable=writable)
    if keys.shape[1] != values.shape[1]:
        raise InvalidRequest(
            f"keys have {keys.shape[1]} tokens and values {values.shape[1]}", field="values"
        )
    if writable and keys.shape[1] and _address(keys) == _address(values):
        text = "keys and values of out are the same memory; each takes its own"
        raise InvalidRequest(text, field="out")
    return int(keys.shape[1]), keys, values


def _address(x: Any) -> int:
    """Where a tensor begins."""
    pointer = getattr(x, "data_ptr", None)
    return int(x.__array_interface__["data"][0] if pointer is None else pointer())


def _checked(layout: KVLayout, name: str, x: Any, *, writable: bool) -> Any:
    shape = getattr(x, "shape", None)
    if shape is None:
        raise InvalidRequest(
            f"{name} must be a numpy array or a torch tensor, not {type(x).__name__}", field=name
        )
    shape = tuple(shape)
    if len(shape) != 4 or shape != layout.shape(shape[1]):
        layers, _, heads, dim = layout.shape(0)
        raise InvalidRequest(
            f"{name} must have the shape [{layers}, tokens, {heads}, {dim}], not {list(shape)}",
            field=name,
        )
    x, declared = tensors.exported(x, layout.dtype)
    try:
        _core.describe_tensor(x[0], declared)
        if writable:
            nothing = x[0, :0]
            _core.copy_tensor(nothing, declared, 0, nothing, declared)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name} cannot be used: {error}", field=name) from error
    except Unsupported as error:
        raise Unsupported(f"{name} cannot be used: {error}") from error
    return x


def checked_queue(queue_bytes: int | str | None, capacity_bytes: int) -> int:
    """Bytes that may wait to be written, 0 for none. Raises TypeError or ConfigError."""
    if queue_bytes is None:
        return max(1, min(_QUEUE_BYTES, capacity_bytes // 8))
    if queue_bytes == 0 and not isinstance(queue_bytes, bool):
        return 0
    return byte_count("queue_bytes", queue_bytes)


def check_places(
    path: object, tier: object, disk_bytes: object, *, read_only: bool, write: str
) -> None:
    """Raises ConfigError for options that say nothing together."""
    if write not in ("save", "evict"):
        raise ConfigError(f"write must be 'save' or 'evict', not {write!r}")
    if path is None and (read_only or disk_bytes is not None):
        option = "read_only" if read_only else "disk_bytes"
        raise ConfigError(f"{option} speaks of a folder; pass path= too")
    if path is not None and tier is not None:
        raise ConfigError("path and tier are two places for the same blocks; pass one")


def checked_ttl(ttl: float | None) -> None:
    """Raises InvalidRequest unless it is a positive number of seconds or None."""
    if ttl is not None and not (
        isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0
    ):
        raise InvalidRequest(f"ttl must be a positive number of seconds, not {ttl!r}", field="ttl")
