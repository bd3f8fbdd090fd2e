"""Where an engine keeps its keys and values, whatever the order of the dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from blatam_kv import _core
from blatam_kv.errors import InvalidRequest, Unsupported

Kind = Literal["key", "value"]

# Dimensions by name: `block` and `token` (of a block), or `slot` for both; `head` (absent: one);
# `dim`, in one piece or as `run` pieces of `part` channels; `layer` and `kv` (keys, then values)
# where one tensor holds several.
LAYOUTS: Mapping[str, str] = {
    "vllm_nhd": "kv block token head dim",
    "vllm_hnd": "kv block head token dim",
    "vllm_flashinfer_nhd": "block kv token head dim",
    "vllm_flashinfer_hnd": "block kv head token dim",
    "vllm_cross_layer": "block layer kv token head dim",
    "vllm_fused_tail": "block head token kv dim",
    "vllm_mla": "block token dim",
    "sglang": "slot head dim",
    "sglang_paged": "block token head dim",
    "trtllm": "block layer kv head token dim",
    "paged_attention_key": "block head run token part",
    "paged_attention_value": "block head dim token",
}

_NAMES = frozenset({"block", "token", "slot", "head", "dim", "run", "part", "layer", "kv"})
_ELEMENTS = {
    "bfloat16": ("bfloat16", 2),
    "float16": ("float16", 2),
    "float8_e4m3fn": ("fp8_e4m3", 1),
    "float8_e5m2": ("fp8_e5m2", 1),
}
# Bits that may stand for one of these, where the caller says which.
_BITS = {"uint16": 2, "int16": 2, "uint8": 1, "int8": 1}
_SIZES = {"bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Some tensors of one engine: layers, keys and values, all with the same strides.

    bases: where slot 0 of each begins, layers outermost, keys before values; kinds: what each
    holds. element: bfloat16, float16, fp8_e4m3 or fp8_e5m2. Strides are in bytes. device: its
    number, or -1 for memory of the host. owners keep the memory alive.
    """

    bases: tuple[int, ...]
    kinds: tuple[Kind, ...]
    element: str
    device: int
    slots: int
    block_tokens: int
    kv_heads: int
    head_dim: int
    run: int  # channels that adjoin; head_dim, but in paged attention's old layout
    block_bytes: int
    token_bytes: int
    head_bytes: int
    run_bytes: int
    owners: tuple[Any, ...]
    read_only: bool = False  # then nothing can be fetched into it

    @classmethod
    def of(
        cls,
        tensors: Iterable[Any],
        layout: str,
        *,
        kind: Kind | None = None,
        element: str | None = None,
    ) -> PagedCache:
        """Describe tensors that are all alike.

        tensors: one for each layer or for all, as the layout says; anything with DLPack, on a CUDA
        device or the host. layout: a name of ``LAYOUTS``, or dimensions as its values name them,
        "block head token dim" say. kind: what the tensors hold, where they have no dimension `kv`.
        element: what integers of 8 or 16 bits stand for: bfloat16, float16, fp8_e4m3 or
        fp8_e5m2.

        Raises InvalidRequest for tensors that do not fit the layout or one another, Unsupported for
        another dtype or device. The memory is not read.
        """
        owners = tuple(tensors)
        if not owners:
            raise InvalidRequest("there must be at least one tensor", field="tensors")
        axes = _axes(layout)
        if ("kv" in axes) == (kind is not None):
            raise InvalidRequest(
                "say with kind= whether the tensors hold 'key' or 'value'"
                if kind is None
                else "these tensors hold keys and values; leave kind= out",
                field="kind",
            )
        if kind not in (None, "key", "value"):
            raise InvalidRequest(f"kind is {kind!r}; it must be 'key' or 'value'", field="kind")
        found = [_Tensor.of(owner, axes, element) for owner in owners]
        first = found[0]
        for i, other in enumerate(found):
            if other.shape != first.shape or other.strides != first.strides:
                raise InvalidRequest(
                    f"tensor {i} has the shape {other.shape} and strides {other.strides} bytes, "
                    f"tensor 0 {first.shape} and {first.strides}; pass like with like",
                    field="tensors",
                )
            if (other.element, other.device) != (first.element, first.device):
                raise InvalidRequest(
                    f"tensor {i} holds {other.element} on device {other.device}, tensor 0 "
                    f"{first.element} on device {first.device}",
                    field="tensors",
                )
        return first.cache(found, kind, owners)

    @classmethod
    def paired(cls, keys: PagedCache, values: PagedCache) -> PagedCache:
        """One of keys and one of values as one, layer by layer, for engines that keep them apart.

        Raises InvalidRequest unless they are alike in everything but what they hold.
        """
        if set(keys.kinds) != {"key"} or set(values.kinds) != {"value"}:
            raise InvalidRequest("the first must hold keys, the second values", field="tensors")
        swapped = replace(keys, bases=values.bases, kinds=values.kinds, owners=values.owners)
        if swapped != values or len(keys.bases) != len(values.bases):
            raise InvalidRequest(
                "keys and values differ in shape, strides, element or device; pass like with like",
                field="tensors",
            )
        pairs = zip(keys.bases, values.bases, strict=True)
        halves: tuple[Kind, Kind] = ("key", "value")
        return replace(
            keys,
            bases=tuple(base for pair in pairs for base in pair),
            kinds=halves * len(keys.bases),
            owners=(*keys.owners, *values.owners),
        )


def _axes(layout: str) -> tuple[str, ...]:
    axes = tuple(LAYOUTS.get(layout, layout).split())
    dims = {"dim"} if "dim" in axes else {"run", "part"}
    tokens = {"slot"} if "slot" in axes else {"block", "token"}
    needed = dims | tokens
    if (
        len(set(axes)) != len(axes)
        or not needed <= set(axes) <= _NAMES
        or (set(axes) - {"layer", "kv", "head"} != needed)
    ):
        raise InvalidRequest(
            f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}, or dimensions: block "
            "and token or slot, dim or run and part, and perhaps head, layer, kv",
            field="layout",
        )
    return axes


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor, its dimensions by name."""

    address: int
    device: int
    element: str
    shape: Mapping[str, int]
    strides: Mapping[str, int]
    read_only: bool

    @classmethod
    def of(cls, owner: Any, axes: Sequence[str], declared: str | None) -> _Tensor:
        address, device, dtype, shape, strides, read_only = _core.describe_memory(owner)
        if len(shape) != len(axes):
            raise InvalidRequest(
                f"a tensor has {len(shape)} dimensions, the layout {len(axes)}: {' '.join(axes)}",
                field="tensors",
            )
        element = _element(dtype, declared)
        sizes = dict(zip(axes, shape, strict=True))
        if 0 in shape:
            raise InvalidRequest(f"a tensor of the shape {shape} holds nothing", field="tensors")
        if sizes.get("kv", 2) != 2:
            raise InvalidRequest(
                f"the dimension kv has {sizes['kv']} parts; it must have 2, keys and values",
                field="tensors",
            )
        # A dimension of one may carry any stride, and is never stepped over.
        steps = {
            axis: stride if sizes[axis] > 1 else 0
            for axis, stride in zip(axes, strides, strict=True)
        }
        inner = "part" if "part" in axes else "dim"
        if sizes[inner] > 1 and steps[inner] != _SIZES[element] and "part" in axes:
            raise InvalidRequest("the channels of a part must adjoin", field="tensors")
        return cls(address, device, element, sizes, steps, read_only)

    def cache(
        self, tensors: Sequence[_Tensor], kind: Kind | None, owners: tuple[Any, ...]
    ) -> PagedCache:
        size, step = self.shape, self.strides
        bytes_each = _SIZES[self.element]
        if "part" in size:
            head_dim, run, run_bytes = size["run"] * size["part"], size["part"], step["run"]
        elif size["dim"] == 1 or step["dim"] == bytes_each:
            head_dim, run, run_bytes = size["dim"], size["dim"], 0
        else:  # no two channels adjoin: runs of one
            head_dim, run, run_bytes = size["dim"], 1, step["dim"]
        block_tokens = size.get("token", 1)
        places = [
            (layer * step.get("layer", 0) + half * step.get("kv", 0), half)
            for layer in range(size.get("layer", 1))
            for half in range(size.get("kv", 1))
        ]
        halves: tuple[Kind, Kind] = ("key", "value")
        return PagedCache(
            bases=tuple(tensor.address + at for tensor in tensors for at, _ in places),
            kinds=tuple(kind or halves[half] for _ in tensors for _, half in places),
            element=self.element,
            device=self.device,
            slots=size.get("slot", size.get("block", 1) * block_tokens),
            block_tokens=block_tokens,
            kv_heads=size.get("head", 1),
            head_dim=head_dim,
            run=run,
            block_bytes=step.get("slot", step.get("block", 0)),
            token_bytes=step.get("token", 0),
            head_bytes=step.get("head", 0),
            run_bytes=run_bytes,
            owners=owners,
            read_only=any(tensor.read_only for tensor in tensors),
        )


def _element(dtype: str, declared: str | None) -> str:
    if declared is not None and declared not in _SIZES:
        raise Unsupported(f"element is {declared!r}; it must be one of {', '.join(_SIZES)}")
    if dtype in _ELEMENTS:
        element = _ELEMENTS[dtype][0]
        if declared not in (None, element):
            raise InvalidRequest(
                f"the tensors hold {element}, but element= says {declared}", field="element"
            )
        return element
    if declared is not None and _BITS.get(dtype) == _SIZES[declared]:
        return declared
    hint = "; say with element= what they stand for" if dtype in _BITS else ""
    raise Unsupported(
        f"tensors of {dtype}{hint}; a paged cache holds bfloat16, float16, "
        "float8_e4m3fn or float8_e5m2"
    )
