"""Which model it is, told from its configuration and a sample of its weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from blatam_kv._core import framed_digest
from blatam_kv.errors import Unsupported

_PERSON = b"blatamkv-model-1"
# Values read of each tensor. Training, merging and quantising change nearly all of them.
_SAMPLES = 32
# What says where a model came from or who wrote the file, not what it computes.
_IRRELEVANT = frozenset({"architectures", "transformers_version", "torch_dtype", "dtype"})

_known: WeakKeyDictionary[torch.nn.Module, tuple[object, str]] = WeakKeyDictionary()
_lock = threading.Lock()  # guards _known


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of a model, in hex: the same for the same weights in any process.

    Made of the configuration, the name, shape and dtype of every parameter and buffer, and 32 values
    of each, spread evenly over it; who changes other values only is not noticed. Active adapters
    count. Computed once for a model object; again if a tensor was replaced or written to. Raises
    Unsupported where weights are not in memory.

    Costs about 20 µs a tensor, and a copy to the host for each device.
    """
    tensors = sorted(
        (*model.named_parameters(), *model.named_buffers()), key=lambda named: named[0]
    )
    adapters = list(_adapters(model))
    state = (adapters, [(name, _place(x), _version(x)) for name, x in tensors])
    with _lock:
        known = _known.get(model)
    if known is not None and known[0] == state:
        return known[1]
    fields = [_configuration(model), json.dumps(adapters).encode()]
    for name, x in tensors:
        fields.append(f"{name} {tuple(x.shape)} {x.dtype}".encode())
    fields += _samples(tensors)
    digest = framed_digest(fields, key=b"", person=_PERSON).hex()
    with _lock:
        _known[model] = state, digest
    return digest


def _configuration(model: Any) -> bytes:
    config = getattr(model, "config", None)
    words = config.to_dict() if config is not None else {}
    kept = {
        name: word
        for name, word in words.items()
        if name not in _IRRELEVANT and not name.startswith("_")
    }
    return json.dumps(kept, sort_keys=True, default=str).encode()


def _adapters(model: torch.nn.Module) -> Iterator[tuple[str, str, str]]:
    """Of modules with adapters (as peft makes them): which ones work, and how strongly."""
    for name, module in model.named_modules():
        active = getattr(module, "active_adapters", None)
        if isinstance(active, list | tuple) and hasattr(module, "disable_adapters"):
            off = bool(module.disable_adapters)
            yield name, str(list(active) if not off else []), str(getattr(module, "scaling", ""))


def _place(x: torch.Tensor) -> int:
    """Where its values are."""
    return 0 if x.is_meta else x.data_ptr()


def _version(x: torch.Tensor) -> int:
    """How often a tensor was written to; tensors of inference mode do not count that."""
    return 0 if x.is_inference() else x._version


def _samples(tensors: list[tuple[str, torch.Tensor]]) -> list[bytes]:
    """The sampled values of each tensor, as bytes. One copy for all that are on a device."""
    picked: dict[torch.device, list[torch.Tensor]] = {}
    order: list[tuple[torch.device, int]] = []
    for name, x in tensors:
        if x.is_meta:
            raise Unsupported(
                f"the weight {name} is not in memory (device meta), so the model cannot be told "
                "from others"
            )
        try:
            taken = _spread(x.detach())
        except RuntimeError as error:  # sparse or packed: torch has no such operation for it
            raise Unsupported(f"the weight {name} cannot be sampled: {error}") from error
        picked.setdefault(x.device, []).append(taken)
        order.append((x.device, taken.numel()))
    hosts = {device: torch.cat(parts).cpu().numpy() for device, parts in picked.items()}
    at = dict.fromkeys(hosts, 0)
    found = []
    for device, size in order:
        found.append(hosts[device][at[device] : at[device] + size].tobytes())
        at[device] += size
    return found


def _spread(x: torch.Tensor) -> torch.Tensor:
    """Up to 32 values from first to last, as bytes, whatever the strides."""
    if not x.numel():
        return torch.empty(0, dtype=torch.uint8, device=x.device)
    count = min(_SAMPLES, x.numel())
    # Integers, because floating-point steps would differ from machine to machine.
    numbers = [at * (x.numel() - 1) // max(1, count - 1) for at in range(count)]
    places = torch.tensor(numbers, device=x.device)
    values = x.view(-1)[places] if x.is_contiguous() else x[torch.unravel_index(places, x.shape)]
    return values.contiguous().view(torch.uint8)
