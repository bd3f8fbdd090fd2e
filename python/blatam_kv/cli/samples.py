"""Keys and values to judge codecs by: the embedded model's, made ones, and a file's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv import codecs, tensors
from blatam_kv.errors import InvalidRequest
from blatam_kv.pages import PAGE

# numpy knows no bfloat16, so arrays are of any dtype.
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Layers of keys, values and queries (None: random ones), [tokens, heads, head_dim] each.

    dtype: what uint16 stands for. loss: the mean negative log likelihood of a text in nats a token
    when the model reads keys and values that went through a codec; None for as they are.
    """

    name: str
    about: str
    layers: list[tuple[Array, Array, Array | None]]
    dtype: str | None
    loss: Callable[[str | None], float] | None = None


def outliers(*, tokens: int = 1024, heads: int = 2, head_dim: int = 128) -> Sample:
    """Keys of which 3 % of the channels lie far from zero, and values with heavy tails."""
    random = np.random.default_rng(20)
    keys = random.standard_normal((tokens, heads, head_dim))
    far = random.random((heads, head_dim)) < 0.03
    sides = random.choice((-1.0, 1.0), (heads, head_dim))
    keys += np.where(far, random.uniform(8, 16, (heads, head_dim)) * sides, 0)
    values = random.standard_t(4, (tokens, heads, head_dim))
    both = [tensors.narrowed(x.astype(np.float32), "bfloat16") for x in (keys, values)]
    about = f"made: 3 % of the channels of K at 8 to 16, V by Student's t; {tokens} tokens"
    return Sample("outliers", about, [(both[0], both[1], None)], "bfloat16")


def embedded() -> Sample:
    """What ``mini`` computes while it reads a document that it has written."""
    from blatam_kv.truthgpt.brief import Brief
    from blatam_kv.truthgpt.decoder import Decoder
    from blatam_kv.truthgpt.mini import Mini
    from blatam_kv.truthgpt.protocol import Message, Sampling

    mini = Mini()
    brief = Brief(query="Plan for a bakery that opens a second shop", language="en")
    asked = brief.messages()
    answer = mini.generate(asked, sampling=Sampling(seed=1)).text
    tokens = mini.encode([*asked, Message("assistant", answer)])
    found = mini.prefill(tokens)
    pages = len(tokens) // PAGE * PAGE
    layers: list[tuple[Array, Array, Array | None]] = [
        (
            tensors.narrowed(keys[:pages], "bfloat16"),
            tensors.narrowed(values[:pages], "bfloat16"),
            None,
        )
        for keys, values in zip(found.keys, found.values, strict=True)
    ]
    decoder = Decoder(mini.weights)

    @functools.cache
    def loss(codec: str | None) -> float:
        def seal(keys: Array, values: Array) -> None:
            _replace(keys, codec or "raw", "key")
            _replace(values, codec or "raw", "value")

        logits = decoder.all_logits(tokens, seal=seal)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(logits)), tokens[1:]]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))

    about = f"{mini.model_id} reading {len(tokens)} tokens, {len(layers)} layers"
    return Sample("mini", about, layers, "bfloat16", loss)


def _replace(x: Array, codec: str, kind: codecs.Kind) -> None:
    """Send each layer of float32 ``[layers, 64, kv_heads, head_dim]`` through a codec, as bfloat16."""
    for layer in range(len(x)):
        bits = tensors.narrowed(x[layer], "bfloat16")
        blob = codecs.quantize(bits, codec=codec, kind=kind, dtype="bfloat16", seed=layer)
        x[layer] = tensors.widened(codecs.dequantize(blob), "bfloat16")


def from_file(path: Path) -> Sample:
    """``keys``, ``values`` and perhaps ``queries`` of an .npz file, with or without layers.

    Each is [tokens, heads, head_dim] or [layers, tokens, heads, head_dim]; uint16 are the bits of
    bfloat16. Raises InvalidRequest where that is not so.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("keys", "values", "queries") if name in file}
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(f"cannot read {path}: {error}", field="kv") from error
    if not {"keys", "values"} <= set(arrays):
        raise InvalidRequest(f"{path} must hold arrays called keys and values", field="kv")
    dtypes = {array.dtype for array in arrays.values()}
    if len({array.ndim for array in arrays.values()}) != 1 or len(dtypes) != 1:
        raise InvalidRequest(f"{path}: its arrays differ in dimensions or dtype", field="kv")
    stacked = {name: x if x.ndim == 4 else x[None] for name, x in arrays.items()}
    if len({len(x) for x in stacked.values()}) != 1 or stacked["keys"].ndim != 4:
        raise InvalidRequest(
            f"{path}: arrays must be [tokens, heads, head_dim], or that with equal layers before it",
            field="kv",
        )
    layers = [
        (
            np.ascontiguousarray(stacked["keys"][i]),
            np.ascontiguousarray(stacked["values"][i]),
            np.ascontiguousarray(stacked["queries"][i]) if "queries" in stacked else None,
        )
        for i in range(len(stacked["keys"]))
    ]
    bits = dtypes == {np.dtype(np.uint16)}
    about = f"{len(layers)} layers of {layers[0][0].shape}" if layers else "no layers"
    if not layers:
        raise InvalidRequest(f"{path} holds no layers", field="kv")
    return Sample(path.name, about, layers, "bfloat16" if bits else None)
