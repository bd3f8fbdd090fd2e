"""The probe's errors are those of their definition, and they rank codecs as they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import blatam_kv as kv
from blatam_kv import codecs
from blatam_kv.cli.samples import outliers
from blatam_kv.probe import relative_error

Array = npt.NDArray[Any]


def sample(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((128, 2, 64)).astype(np.float32)


def attention(queries: Array, keys: Array, values: Array) -> Array:
    """As torch computes it."""
    q, k, v = (
        torch.from_numpy(x.astype(np.float64)).transpose(0, 1) for x in (queries, keys, values)
    )
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    found: Array = out.transpose(0, 1).numpy()
    return found


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("codec", ["int8", "int4_kc", "tq3"])
def test_errors_are_those_of_their_definition(codec: str, heads: int) -> None:
    keys, values = sample(1), sample(2)
    queries = np.random.default_rng(3).standard_normal((5, heads, 64)).astype(np.float32)
    found = kv.quality(keys, values, codec=codec, queries=queries)
    kept_keys = kv.dequantize(kv.quantize(keys, codec=codec, kind="key"))
    kept_values = kv.dequantize(kv.quantize(values, codec=codec, kind="value"))
    exact, kept = attention(queries, keys, values), attention(queries, kept_keys, kept_values)
    assert found.key_error == pytest.approx(relative_error(keys, kept_keys), rel=1e-6)
    assert found.value_error == pytest.approx(relative_error(values, kept_values), rel=1e-6)
    assert found.attention_error == pytest.approx(relative_error(exact, kept), rel=1e-6)


def test_bits_count_scales_and_minima_but_no_header() -> None:
    x = sample(1).astype(np.float16)
    bits = {codec: kv.quality(x, x, codec=codec).bits for codec in ("raw", "int8", "k8v4", "int4")}
    assert bits == {"raw": 16, "int8": 8.5, "k8v4": 6.5, "int4": 4.5}


@pytest.mark.parametrize("codec", ["raw", *(name for name in codecs.NAMES if name[:3] == "exp")])
def test_a_lossless_codec_has_no_error(codec: str) -> None:
    found = kv.quality(sample(1), sample(2), codec=codec)
    assert (found.key_error, found.value_error, found.attention_error) == (0, 0, 0)


# Of the table in the reference: the same kind of data at the same bits, with some room for chance.
@pytest.mark.parametrize(
    ("codec", "most"),
    [
        ("int8", 0.026), ("int8_kc", 0.011), ("k8v4", 0.125), ("int4", 0.43), ("int4_kc", 0.16),
        ("int4_rot", 0.25), ("tq4", 0.27), ("tq3", 0.51), ("k4v3", 0.23), ("fp8_e4m3", 0.08),
        ("int8_per_token_head", 0.037), ("q8_0", 0.028),
    ],
)  # fmt: skip
def test_keys_with_outliers_lose_no_more_than_they_should(codec: str, most: float) -> None:
    ((keys, values, _),) = outliers().layers
    errors = [
        kv.quality(keys, values, codec=codec, dtype="bfloat16", seed=seed).attention_error
        for seed in range(3)
    ]
    assert np.mean(errors) < most


def test_the_same_seed_asks_the_same_queries() -> None:
    first, second = (kv.quality(sample(1), sample(2), codec="int4", seed=4) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"values": sample(2)[:5]}, "must be alike"),
        ({"queries": sample(3)[:, :1]}, "a multiple of 2"),
        ({"queries": sample(3)[..., :32]}, "64"),
        ({"queries": sample(3)[:0]}, "queries are"),
        ({"codec": "int5"}, "unknown codec"),
        ({"keys": sample(1)[:0], "values": sample(1)[:0]}, "no tokens"),
        ({"keys": np.full((128, 2, 64), np.nan, np.float32)}, "NaN or infinity"),
    ],
)
def test_what_cannot_be_measured_is_named(options: dict[str, Any], says: str) -> None:
    good = {"keys": sample(1), "values": sample(2), "codec": "int8"}
    arguments = {**good, **options}
    with pytest.raises(kv.InvalidRequest, match=says):
        kv.quality(arguments.pop("keys"), arguments.pop("values"), **arguments)
