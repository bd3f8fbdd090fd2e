"""What a codec does to keys and values, and to what attention makes of them.

No peer ships such a probe, and a cache that spoils answers says nothing of it. The error of the
values tells formats apart; the error of attention's output is what a model feels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blatam_kv import codecs
from blatam_kv.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

QUERIES = 64  # random ones a head, where none are given


@dataclass(frozen=True, slots=True)
class Quality:
    """Errors are relative: the norm of the difference over the norm of the original."""

    codec: str
    bits: float  # a value, scales and minima counted, the header of a blob not; mean of both kinds
    key_error: float
    value_error: float
    attention_error: float  # of softmax(queries keys^T / sqrt(head_dim)) values


def quality(
    keys: Any,
    values: Any,
    *,
    codec: str,
    queries: Any = None,
    seed: int = 0,
    dtype: str | None = None,
) -> Quality:
    """Put keys and values through a codec and measure what comes back.

    keys, values: [tokens, kv_heads, head_dim] of one layer, as for ``quantize``; finite, at least
    one token. queries: [n, heads, head_dim], heads a multiple of kv_heads whose groups share a head
    of keys, each query attending to all tokens; without them, 64 random ones a head, normal with
    the standard deviation 1. seed: of these, and of codecs that rotate. dtype: what uint16 stands
    for. Raises InvalidRequest where shapes do not fit or a value is not finite.
    """
    exact_keys, kept_keys, key_bits = _through(keys, codec, "key", seed, dtype)
    exact_values, kept_values, value_bits = _through(values, codec, "value", seed, dtype)
    if exact_keys.shape != exact_values.shape:
        raise InvalidRequest(
            f"keys are {exact_keys.shape}, values {exact_values.shape}; they must be alike",
            field="values",
        )
    asked = _queries(queries, exact_keys.shape, seed, dtype)
    return Quality(
        codec=codec,
        bits=(key_bits + value_bits) / 2,
        key_error=relative_error(exact_keys, kept_keys),
        value_error=relative_error(exact_values, kept_values),
        attention_error=relative_error(
            _attend(asked, exact_keys, exact_values), _attend(asked, kept_keys, kept_values)
        ),
    )


def relative_error(exact: Doubles, found: Doubles) -> float:
    """||found - exact|| / ||exact||; of nothing but zeros, 0 if nothing changed."""
    import numpy as np

    difference, norm = float(np.linalg.norm(found - exact)), float(np.linalg.norm(exact))
    if norm:
        return difference / norm
    return float("inf") if difference else 0.0


def _through(
    x: Any, codec: str, kind: codecs.Kind, seed: int, dtype: str | None
) -> tuple[Doubles, Doubles, float]:
    """The tensor as float64, what the codec leaves of it, and the bits a value takes."""
    import numpy as np

    from blatam_kv import tensors

    blob = codecs.quantize(x, codec=codec, kind=kind, seed=seed, dtype=dtype)
    info = codecs.describe(blob)
    if not info.shape[0]:
        raise InvalidRequest("there are no tokens to measure", field=f"{kind}s")
    exact = tensors.numbers(x, dtype)
    if not np.isfinite(exact).all():
        raise InvalidRequest(
            f"{kind}s hold NaN or infinity, for which no error can be given", field=f"{kind}s"
        )
    kept = tensors.widened(codecs.dequantize(blob), info.dtype).astype(np.float64)
    return exact, kept, 8 * (len(blob) - codecs.HEADER_BYTES) / exact.size


def _queries(queries: Any, shape: tuple[int, ...], seed: int, dtype: str | None) -> Doubles:
    import numpy as np

    from blatam_kv import tensors

    _, kv_heads, head_dim = shape
    if queries is None:
        # A stream of its own: from the caller's seed alone might come the caller's very keys.
        random = np.random.default_rng([seed, int.from_bytes(b"queries", "big")])
        return random.standard_normal((QUERIES, kv_heads, head_dim))
    asked = tensors.numbers(queries, dtype)
    if asked.shape[1] % kv_heads or asked.shape[2] != head_dim or not len(asked):
        raise InvalidRequest(
            f"queries are {asked.shape}; they must be [n, a multiple of {kv_heads}, {head_dim}]",
            field="queries",
        )
    return asked


def _attend(queries: Doubles, keys: Doubles, values: Doubles) -> Doubles:
    import numpy as np

    group = queries.shape[1] // keys.shape[1]
    out = np.empty_like(queries)
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[:, head // group].T / np.sqrt(keys.shape[2])
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed = weights @ values[:, head // group]
        out[:, head] = mixed / weights.sum(axis=1, keepdims=True)
    return out
