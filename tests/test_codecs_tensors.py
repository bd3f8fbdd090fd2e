"""Tensors of torch and of others enter and leave without a copy, by each of the three ways."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from codecs_inputs import values

import blatam_kv as kv
from blatam_kv import tensors

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def tensor(dtype: str) -> torch.Tensor:
    bits = values("normal", (70, 3, 128), dtype, 1)
    return torch.from_numpy(bits.view(np.int32 if dtype == "float32" else np.int16)).view(
        DTYPES[dtype]
    )


class OnlyCapsule:
    """What exports by __dlpack__ alone."""

    def __init__(self, held: torch.Tensor, *, old: bool = False) -> None:
        self.held = held
        self.old = old

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
        if max_version is None:
            return self.held.__dlpack__()
        if self.old:
            raise TypeError("max_version is not known here")
        return self.held.__dlpack__(max_version=max_version)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_in_gives_the_same_blob(dtype: str) -> None:
    x = tensor(dtype)
    by_table = kv.quantize(x, codec="int4", kind="key")
    bits = x.view(torch.uint16 if dtype != "float32" else torch.float32).numpy()
    others = [
        kv.quantize(OnlyCapsule(x), codec="int4", kind="key"),
        kv.quantize(OnlyCapsule(x, old=True), codec="int4", kind="key"),
        kv.quantize(bits, codec="int4", kind="key", dtype=dtype),
        kv.quantize(x.transpose(0, 1).contiguous().transpose(0, 1), codec="int4", kind="key"),
    ]
    for other in others:
        np.testing.assert_array_equal(other, by_table)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_out_gives_the_same_values(dtype: str) -> None:
    x = tensor(dtype)
    blob = kv.quantize(x, codec="int8")
    plain = torch.empty_like(x)
    assert kv.dequantize(blob, out=plain) is plain
    for old in (False, True):
        other = torch.empty_like(x)
        kv.dequantize(blob, out=OnlyCapsule(other, old=old))
        assert torch.equal(other, plain)
    strided = torch.empty(3, 140, 128, dtype=x.dtype).transpose(0, 1)[::2]
    kv.dequantize(blob, out=strided)
    assert torch.equal(strided, plain)
    array = kv.dequantize(blob)
    assert array.dtype == tensors.STORAGE[dtype]
    assert torch.equal(torch.from_numpy(array).view(x.dtype), plain)


def test_a_blob_may_be_a_tensor_of_bytes() -> None:
    x = tensor("bfloat16")
    blob = torch.from_numpy(kv.quantize(x, codec="int8"))
    np.testing.assert_array_equal(kv.dequantize(blob), kv.dequantize(blob.numpy()))
    assert kv.describe(blob).dtype == "bfloat16"
    out = torch.zeros(len(blob), dtype=torch.uint8)
    kv.quantize(x, codec="int8", out=out)
    assert torch.equal(out, blob)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 2, 8, dtype=torch.float64),
        torch.zeros(2, 2, 8, dtype=torch.int16),
        torch.zeros(2, 2, 8, dtype=torch.complex64),
        torch.zeros(2, 2, 8, device="meta"),
        torch.zeros(2, 2, 8).to_sparse(),
        torch.zeros(2, 8),
        torch.zeros(()),
        torch.zeros(2, 2, 16)[..., ::2],
    ],
    ids=["float64", "int16", "complex", "meta", "sparse", "2-D", "0-D", "strided"],
)
def test_a_tensor_that_is_no_keys_or_values_is_refused(x: torch.Tensor) -> None:
    with pytest.raises((kv.Unsupported, kv.InvalidRequest)):
        kv.quantize(x, codec="int8")


def test_a_parameter_is_read_as_the_tensor_it_is() -> None:
    x = torch.nn.Parameter(tensor("float32"))
    expected = kv.quantize(x.detach(), codec="int8")
    np.testing.assert_array_equal(kv.quantize(x, codec="int8"), expected)


def test_no_reference_is_kept() -> None:
    x = tensor("bfloat16")
    y = x.view(torch.uint16).numpy()
    capsule = OnlyCapsule(x)
    before = [sys.getrefcount(held) for held in (x, y, capsule)]
    for _ in range(10):
        kv.quantize(x, codec="int8")
        kv.quantize(y, codec="int8", dtype="bfloat16")
        kv.quantize(capsule, codec="int8")
        with pytest.raises(kv.Unsupported):
            kv.quantize(y, codec="int8")
    assert [sys.getrefcount(held) for held in (x, y, capsule)] == before
