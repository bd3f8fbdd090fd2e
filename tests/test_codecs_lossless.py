"""``exp4`` and ``exp_huff``: the bytes of their slow reference, every bit back, nothing else believed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from codecs_inputs import KINDS_OF_DATA, values, with_escapes
from codecs_lossless_reference import CODECS, pieces
from hypothesis import example, given, settings
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv import codecs
from blatam_kv.errors import CorruptBlob

Array = npt.NDArray[Any]

DTYPES = ("bfloat16", "float16", "float32")
HEADER = 64
SIZES = (0, 1, 2, 31, 32, 33, 55, 56, 57, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 3000)


def as_given(x: Array, dtype: str) -> Array:
    """Bit patterns as an array that quantize takes: [values, 1, 1]."""
    shaped = x.reshape(-1, 1, 1)
    return shaped if dtype == "bfloat16" else shaped.view(dtype)


def encoded(x: Array, dtype: str, codec: str, **options: Any) -> Array:
    declared = "bfloat16" if dtype == "bfloat16" else None
    blob: Array = kv.quantize(as_given(x, dtype), codec=codec, dtype=declared, **options)
    return blob


def bits(x: Array) -> Array:
    return x.reshape(-1).view(np.uint32 if x.itemsize == 4 else np.uint16)


def check(x: Array, dtype: str, codec: str) -> int:
    """The payload is the reference's, and both decoders give x. Returns its bytes."""
    encode, decode = CODECS[codec]
    blob = encoded(x, dtype, codec)
    payload = blob[HEADER:].tobytes()
    assert payload == encode(x, dtype)
    np.testing.assert_array_equal(bits(kv.dequantize(blob)), x)
    np.testing.assert_array_equal(decode(payload, x.size, dtype), x)
    return len(payload)


def normal(count: int, dtype: str, seed: int = 1) -> Array:
    return values("normal", (count, 1, 1), dtype, seed).reshape(-1)


both = pytest.mark.parametrize("codec", CODECS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


# ---- the format ---------------------------------------------------------------------------------


@both
@every_dtype
@pytest.mark.parametrize("count", SIZES)
def test_every_length_gives_the_bytes_of_the_reference(codec: str, dtype: str, count: int) -> None:
    check(normal(count, dtype), dtype, codec)


@both
@every_dtype
@pytest.mark.parametrize("data", KINDS_OF_DATA)
def test_every_kind_of_data_comes_back(codec: str, dtype: str, data: str) -> None:
    x = values(data, (45, 2, 48), dtype, 2)
    check(with_escapes(x, dtype, 3, 4).reshape(-1), dtype, codec)


@both
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_all_patterns_of_16_bits_come_back(codec: str, dtype: str) -> None:
    check(np.arange(65536, dtype=np.uint16), dtype, codec)


@both
@every_dtype
@settings(max_examples=60)
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from(["normal", "bits", "subnormal", "constant", "zeros", "steps", "huge"]),
            st.integers(1, 1500),
        ),
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_any_mixture_gives_the_bytes_of_the_reference(
    codec: str, dtype: str, runs: list[tuple[str, int]], seed: int
) -> None:
    parts = [values(kind, (n, 1, 1), dtype, seed + i) for i, (kind, n) in enumerate(runs)]
    x = np.concatenate([part.reshape(-1) for part in [normal(0, dtype), *parts]])
    check(x, dtype, codec)


@every_dtype
def test_more_than_one_block_comes_back(dtype: str) -> None:
    x = normal(65536 + 300, dtype)
    x[65536:] = x[0]
    check(x, dtype, "exp_huff")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("count", [1024, 700])
def test_a_chunk_is_raw_from_one_escape_too_many(dtype: str, count: int) -> None:
    shift, largest = {"bfloat16": (7, 130), "float16": (10, 30), "float32": (23, 130)}[dtype]
    size = {"float16": 56}.get(dtype, 32)
    room = (count - count // 64 * size - min(count % 64, size)) // 3
    patterns = np.uint32 if dtype == "float32" else np.uint16
    x = np.full(count, largest << shift, patterns)
    sizes = []
    for escapes in (room, room + 1):
        x[:escapes] = (largest - 15) << shift
        sizes.append(check(x, dtype, "exp4"))
    body = sizes[0] - 3 * room
    excess = count - count // 64 * size - min(count % 64, size)
    assert sizes[1] == body + excess


@every_dtype
def test_a_chunk_of_escapes_alone_takes_no_more_than_raw(dtype: str) -> None:
    x = values("bits", (2048, 1, 1), dtype, 3).reshape(-1)
    assert check(x, dtype, "exp4") <= x.nbytes + 1 + 3 * 2
    assert check(x, dtype, "exp_huff") <= x.nbytes + 4 + 4


@both
@every_dtype
@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 65536, 70000])
def test_nothing_expands_beyond_the_stated_bound(codec: str, dtype: str, count: int) -> None:
    x = values("bits", (count, 1, 1), dtype, 5)
    most = kv.encoded_size(as_given(x, dtype), codec=codec, dtype=dtype)
    blocks = -(-count // 65536)
    over = 1 + 3 * -(-count // 1024) if codec == "exp4" else (4 + x.itemsize) * blocks
    assert most == HEADER + x.nbytes + over
    assert encoded(x, dtype, codec).size <= most


def test_values_that_were_bf16_take_no_more_as_fp32() -> None:
    x = normal(8192, "bfloat16")
    wide = x.astype(np.uint32) << 16
    for codec in CODECS:
        narrow_bytes = check(x, "bfloat16", codec)
        assert check(wide, "float32", codec) <= narrow_bytes + 4
    assert check(wide | 0x0100, "float32", "exp4") > narrow_bytes


def test_values_that_were_bf16_take_less_as_fp16() -> None:
    x = (normal(65536, "bfloat16").astype(np.uint32) << 16).view(np.float32)
    half = x.astype(np.float16).view(np.uint16)
    assert half.nbytes / check(half, "float16", "exp_huff") > 1.4


def test_normal_values_shrink_as_promised() -> None:
    x = normal(65536, "bfloat16")
    assert x.nbytes / check(x, "bfloat16", "exp4") > 1.33
    assert x.nbytes / check(x, "bfloat16", "exp_huff") > 1.47


# ---- the interface ------------------------------------------------------------------------------


@both
@every_dtype
def test_strides_and_threads_do_not_change_the_blob(codec: str, dtype: str) -> None:
    x = as_given(values("normal", (3000, 4, 24), dtype, 6), dtype).reshape(3000, 4, 24)
    declared = "bfloat16" if dtype == "bfloat16" else None
    expected = kv.quantize(x, codec=codec, dtype=declared)
    heads_first = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    wide = np.zeros((3000, 4, 30), x.dtype)
    wide[:, :, :24] = x
    for view in (x, heads_first, wide[:, :, :24], x[::-1][::-1]):
        for threads in (1, 3):
            blob = kv.quantize(view, codec=codec, dtype=declared, threads=threads)
            np.testing.assert_array_equal(blob, expected)
    for target in (np.empty_like(x), np.empty_like(heads_first), np.zeros_like(wide)[:, :, :24]):
        kv.dequantize(expected, out=target, threads=3, dtype=declared)
        np.testing.assert_array_equal(bits(np.ascontiguousarray(target)), bits(x))


@both
def test_a_returned_blob_is_room_enough_for_the_next_like_it(codec: str) -> None:
    x = normal(5000, "bfloat16")
    first = encoded(x, "bfloat16", codec)
    again = encoded(x, "bfloat16", codec, out=first.copy())
    np.testing.assert_array_equal(again, first)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors_come_back_bit_for_bit(codec: str, dtype: str) -> None:
    import torch

    x = values("bits", (50, 2, 64), dtype, 7)
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[dtype]
    signed = x.view(np.int32 if dtype == "float32" else np.int16)
    tensor = torch.from_numpy(signed).view(kind)
    out = torch.empty_like(tensor)
    kv.dequantize(kv.quantize(tensor, codec=codec), out=out)
    assert torch.equal(out.view(torch.from_numpy(signed).dtype), torch.from_numpy(signed))
    info = codecs.describe(kv.quantize(tensor, codec=codec))
    assert (info.codec, info.dtype, info.lossless) == (codec, dtype, True)


# ---- hostile payloads ---------------------------------------------------------------------------


@both
def test_every_changed_byte_is_found(codec: str) -> None:
    blob = encoded(normal(300, "bfloat16"), "bfloat16", codec)
    for place in range(blob.size):
        bad = blob.copy()
        bad[place] ^= 1 << place % 8
        with pytest.raises((CorruptBlob, kv.errors.Unsupported)):
            kv.dequantize(bad)


changes = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)


@both
@every_dtype
@settings(max_examples=150)
@given(
    count=st.integers(1, 1400),
    seed=st.integers(0, 2**20),
    front=st.booleans(),
    changed=changes,
)
@example(count=300, seed=0, front=True, changed=[(0, 255)])
def test_without_checksums_both_decoders_agree_on_what_is_damage(
    codec: str, dtype: str, count: int, seed: int, front: bool, changed: list[tuple[int, int]]
) -> None:
    _, decode = CODECS[codec]
    blob = encoded(normal(count, dtype, seed), dtype, codec, checksum=False)
    size = min(blob.size - HEADER, 48) if front else blob.size - HEADER
    for place, byte in changed:
        blob[HEADER + place % size] = byte
    try:
        expected = decode(blob[HEADER:].tobytes(), count, dtype)
    except ValueError:
        with pytest.raises(CorruptBlob):
            kv.dequantize(blob)
    else:
        np.testing.assert_array_equal(bits(kv.dequantize(blob)), expected)


@both
@settings(max_examples=100)
@given(data=st.data())
def test_noise_is_refused_or_read_as_the_reference_reads_it(
    codec: str, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, 700))
    blob = encoded(normal(count, "bfloat16"), "bfloat16", codec, checksum=False)
    noise = data.draw(st.binary(min_size=blob.size - HEADER, max_size=blob.size - HEADER))
    blob[HEADER:] = np.frombuffer(noise, np.uint8)
    try:
        expected = CODECS[codec][1](noise, count, "bfloat16")
    except ValueError:
        with pytest.raises(CorruptBlob):
            kv.dequantize(blob)
    else:
        np.testing.assert_array_equal(bits(kv.dequantize(blob)), expected)


def test_streams_that_end_too_early_or_too_late_are_refused() -> None:
    """One byte moved from a stream to its neighbour: every length still adds up."""
    blob = encoded(normal(4096, "bfloat16"), "bfloat16", "exp_huff", checksum=False)
    first, last = blob[HEADER + 5], blob[HEADER + 6]
    sizes = HEADER + 7 + (int(last) - int(first) + 2) // 2
    assert len(pieces(4096)) == 8
    for stream in range(7):
        bad = blob.copy()
        lengths = bad[sizes : sizes + 16].view("<u2")
        lengths[stream] += 1
        lengths[stream + 1] -= 1
        with pytest.raises(CorruptBlob, match="exp_huff"):
            kv.dequantize(bad)


def test_escapes_that_are_not_those_of_the_codes_are_refused() -> None:
    x = np.full(1024, 130 << 7, np.uint16)
    x[[5, 9]] = [115 << 7, 3 << 7]  # the first is as its code 15 would say without the list
    blob = encoded(x, "bfloat16", "exp4", checksum=False)
    first, second = (blob[blob.size + place :][:3].tobytes() for place in (-6, -3))
    assert (first, second) == (bytes([5, 0, 115]), bytes([9, 0, 3]))
    for escapes in (first + first, second + first, first + bytes([8, 0, 3]), first + b"\xff\xff\3"):
        blob[-6:] = np.frombuffer(escapes, np.uint8)
        with pytest.raises(CorruptBlob, match="escapes"):
            kv.dequantize(blob)


# ---- the page -----------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parent.parent / "docs" / "LOSSLESS.md"

EXAMPLES = {
    "exp4": [i / 8 for i in range(40)],
    "exp_huff": [(1, 0.5, 1, 0.25, 1, 0.5, 1, 0.125)[i % 8] for i in range(256)],
}


@both
def test_the_example_on_the_page_is_what_is_written_and_read(codec: str) -> None:
    found = re.search(rf"```{codec}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    payload = bytes.fromhex(found[1])
    x = (np.array(EXAMPLES[codec], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert encoded(x, "bfloat16", codec)[HEADER:].tobytes() == payload
    np.testing.assert_array_equal(CODECS[codec][1](payload, x.size, "bfloat16"), x)
