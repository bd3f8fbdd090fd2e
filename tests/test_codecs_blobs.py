"""Blobs meet a hostile world: cut, changed, foreign, forged; and arguments that do not fit."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from codec_reference import CODECS
from codecs_inputs import values, with_escapes
from hypothesis import given, settings
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv import _core, codecs

Array = npt.NDArray[Any]


def sample(shape: tuple[int, int, int] = (70, 2, 72), *, escapes: int = 3) -> Array:
    return with_escapes(values("normal", shape, "float16", 3), "float16", escapes, 4).view(
        np.float16
    )


def encoded(codec: str, *, checksum: bool = True, x: Array | None = None) -> Array:
    x = sample() if x is None else x
    return kv.quantize(x, codec=codec, kind="key", checksum=checksum, seed=9)


def resealed(blob: Array, offset: int, field: bytes) -> Array:
    """A blob with one field of its header replaced and the header's checksum made right again."""
    forged = blob.copy()
    forged[offset : offset + len(field)] = np.frombuffer(field, np.uint8)
    forged[60:64] = np.frombuffer(struct.pack("<I", _core.crc32c(forged[:60])), np.uint8)
    return forged


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_every_changed_byte_is_noticed(codec: str) -> None:
    blob = encoded(codec, x=sample((65, 1, 8), escapes=1))
    for place in range(len(blob)):
        for flip in (1, 0x80, 0xFF):
            changed = blob.copy()
            changed[place] ^= flip
            with pytest.raises((kv.CorruptBlob, kv.Unsupported)):
                kv.dequantize(changed)


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_blob_cut_anywhere_is_refused(codec: str) -> None:
    blob = encoded(codec, x=sample((65, 1, 8), escapes=1))
    for end in range(len(blob)):
        with pytest.raises(kv.CorruptBlob, match=r"shorter than a header|truncated"):
            kv.dequantize(blob[:end])


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_bytes_after_the_end_are_refused(codec: str) -> None:
    longer = np.append(encoded(codec), np.uint8(0))
    with pytest.raises(kv.CorruptBlob, match="after the end"):
        kv.dequantize(longer)


@pytest.mark.parametrize("codec", codecs.NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_payload_without_a_checksum_decodes_or_is_refused_but_never_harms(
    codec: str, data: st.DataObject
) -> None:
    blob = encoded(codec, checksum=False)
    for _ in range(data.draw(st.integers(1, 20))):
        blob[data.draw(st.integers(64, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(64, len(blob)))
    for candidate in (blob, resealed(blob[:cut], 40, struct.pack("<Q", cut - 64))):
        try:
            back = kv.dequantize(candidate)
        except kv.CorruptBlob:
            continue
        assert back.shape == (70, 2, 72)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_blob(data: bytes) -> None:
    with pytest.raises((kv.CorruptBlob, kv.Unsupported)):
        kv.dequantize(data)
    with pytest.raises((kv.CorruptBlob, kv.Unsupported)):
        kv.dequantize(b"BKVQ" + data)


# ---- forged headers -----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", codecs.NAMES)
@pytest.mark.parametrize(
    ("offset", "field", "reason"),
    [
        (6, b"\3", "unknown dtype"),
        (7, b"\2", "unknown kind"),
        (8, b"\3", "unknown flags"),
        (10, struct.pack("<H", 63), "another group size"),
        (12, struct.pack("<I", 0), "impossible shape"),
        (16, struct.pack("<Q", 2**63), "impossible shape"),
        (16, struct.pack("<Q", 2**40), "too short for its shape"),
        (24, struct.pack("<I", 2**32 - 1), "too short for its shape|impossible shape"),
        (28, b"\1", "reserved"),
        (52, b"\1", "reserved"),
        (59, b"\1", "reserved"),
        (40, struct.pack("<Q", 2**64 - 1), "truncated"),
    ],
)
def test_a_forged_header_is_refused_before_anything_is_allocated(
    codec: str, offset: int, field: bytes, reason: str
) -> None:
    with pytest.raises(kv.CorruptBlob, match=reason):
        kv.dequantize(resealed(encoded(codec), offset, field))


def test_a_later_version_and_an_unknown_codec_are_unsupported_not_corrupt() -> None:
    blob = encoded("int8")
    for offset, field in ((4, b"\2"), (5, b"\xfe")):
        with pytest.raises(kv.Unsupported, match="this build does not"):
            kv.dequantize(resealed(blob, offset, field))


@pytest.mark.parametrize("count", [0, 2**32, 2**61, 2**64 - 1])
def test_an_impossible_number_of_escapes_is_refused(count: int) -> None:
    blob = encoded("int8", checksum=False)
    place = kv.encoded_size(sample(), codec="int8", kind="key")
    blob[place : place + 8] = np.frombuffer(struct.pack("<Q", count), np.uint8)
    with pytest.raises(kv.CorruptBlob, match="escapes"):
        kv.dequantize(blob)


def test_escapes_out_of_order_or_beyond_the_tensor_are_refused() -> None:
    blob = encoded("int8", checksum=False)
    place = kv.encoded_size(sample(), codec="int8", kind="key") + 8
    for index in (2**40, 2**64 - 1):
        forged = blob.copy()
        forged[place : place + 8] = np.frombuffer(struct.pack("<Q", index), np.uint8)
        with pytest.raises(kv.CorruptBlob, match="impossible escape"):
            kv.dequantize(forged)
    forged = blob.copy()
    forged[place : place + 16] = np.concatenate(
        [blob[place + 8 : place + 16], blob[place : place + 8]]
    )
    with pytest.raises(kv.CorruptBlob, match="impossible escape"):
        kv.dequantize(forged)


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (np.zeros((2, 2, 8)), kv.Unsupported, "bfloat16, float16 or float32"),
        (np.zeros((2, 2, 8), np.int32), kv.Unsupported, "bfloat16, float16 or float32"),
        (np.zeros((2, 2, 8), np.uint16), kv.Unsupported, "say which with dtype="),
        (np.zeros((2, 8), np.float32), kv.InvalidRequest, r"\[tokens, kv_heads, head_dim\]"),
        (np.zeros((1, 2, 2, 8), np.float32), kv.InvalidRequest, "not 4 dimensions"),
        (np.zeros((2, 2, 8), np.float32)[..., ::2], kv.InvalidRequest, "not contiguous"),
        (np.zeros((2, 8, 2), np.float32).transpose(0, 2, 1), kv.InvalidRequest, "not contiguous"),
        (np.zeros((2, 0, 8), np.float32), kv.InvalidRequest, "no values"),
        (np.zeros((2, 2, 0), np.float32), kv.InvalidRequest, "no values"),
        ([[[1.0]]], kv.InvalidRequest, "numpy array or a torch tensor, not list"),
        (None, kv.InvalidRequest, "not NoneType"),
    ],
)
def test_what_is_no_tensor_of_keys_or_values_is_named(
    x: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        kv.quantize(x, codec="int8")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "int5"}, "unknown codec 'int5'; known: raw"),
        ({"codec": "int8", "kind": "query"}, "'value' or 'key'"),
        ({"codec": "int8", "threads": 0}, "threads is 0"),
        ({"codec": "int8", "threads": 10**6}, "1 to 256"),
        ({"codec": "int8", "seed": -1}, "seed is -1"),
        ({"codec": "int8", "seed": 2**64}, "seed is"),
        ({"codec": "int8", "dtype": "float64"}, "bfloat16, float16 or float32"),
        ({"codec": "int8", "dtype": "float32"}, "holds float16, but dtype= says float32"),
        ({"codec": "int8", "out": bytearray(10)}, "out has 10 bytes, the blob takes"),
        ({"codec": "int8", "out": bytes(100_000)}, "read-only"),
        ({"codec": "int8", "out": np.zeros(200_000, np.uint8)[::2]}, "contiguous"),
        ({"codec": "int8", "out": "text"}, "contiguous buffer of bytes"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(kv.InvalidRequest, match=says):
        kv.quantize(sample(), **options)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (np.zeros((70, 2, 72), np.float32), "out holds float32|dtype= says float16"),
        (np.zeros((70, 2, 73), np.float16), r"shape \(70, 2, 73\), the blob \(70, 2, 72\)"),
        (np.zeros((70, 2, 144), np.float16)[..., ::2], "not contiguous"),
        (np.broadcast_to(np.zeros((1, 2, 72), np.float16), (70, 2, 72)), "cannot be written"),
    ],
)
def test_an_output_that_does_not_fit_is_named(out: Array, says: str) -> None:
    with pytest.raises(kv.InvalidRequest, match=says):
        kv.dequantize(encoded("int8"), out=out)


def test_buffers_that_overlap_are_refused() -> None:
    memory = np.zeros(200_000, np.uint8)
    x = memory[:20160].view(np.float16).reshape(70, 2, 72)
    with pytest.raises(kv.InvalidRequest, match="out overlaps x"):
        kv.quantize(x, codec="int8", out=memory[100:])
    blob = kv.quantize(x, codec="int8", out=memory[100_000:])
    with pytest.raises(kv.InvalidRequest, match="out overlaps the blob"):
        kv.dequantize(blob, out=memory[100_000:120_160].view(np.float16).reshape(70, 2, 72))


def test_a_shape_asks_for_its_dtype_and_for_three_sizes() -> None:
    with pytest.raises(kv.InvalidRequest, match="pass dtype="):
        kv.encoded_size((1, 2, 3), codec="int8")
    for shape in ((1, 2), (1, 2, -3), (1, 2, 3.0), (2**60, 2**20, 2**20), (1, 2**40, 1)):
        with pytest.raises(kv.InvalidRequest):
            kv.encoded_size(shape, codec="int8", dtype="float16")


def test_the_room_that_escapes_need_is_said_and_then_enough() -> None:
    x = sample()
    small = np.empty(kv.encoded_size(x, codec="int4"), np.uint8)
    with pytest.raises(kv.InvalidRequest, match=r"the blob takes (\d+)") as raised:
        kv.quantize(x, codec="int4", out=small)
    needed = int(str(raised.value).rsplit(" ", 1)[1])
    assert kv.quantize(x, codec="int4", out=bytearray(needed)).size == needed


# ---- ways in and out ----------------------------------------------------------------------------


@pytest.mark.parametrize("codec", codecs.NAMES)
@pytest.mark.parametrize("head_dim", [40, 72, 128])
def test_strides_and_threads_change_nothing(codec: str, head_dim: int) -> None:
    x = with_escapes(values("normal", (150, 3, head_dim), "float16", 1), "float16", 3, 2)
    x = x.view(np.float16)
    for kind in ("key", "value"):
        expected = kv.quantize(x, codec=codec, kind=kind)
        wide = np.zeros((3, 300, head_dim + 9), np.float16)
        strided = wide.transpose(1, 0, 2)[::2, :, 4 : 4 + head_dim]
        strided[:] = x
        backwards = x[::-1, ::-1].copy()[::-1, ::-1]
        for view in (strided, backwards):
            for threads in (1, 2, 7):
                found = kv.quantize(view, codec=codec, kind=kind, threads=threads)
                np.testing.assert_array_equal(found, expected)
        plain = kv.dequantize(expected, threads=3)
        out = np.zeros_like(wide).transpose(1, 0, 2)[::2, :, 4 : 4 + head_dim]
        assert kv.dequantize(expected, out=out, threads=2) is out
        np.testing.assert_array_equal(out.view(np.uint16), plain.view(np.uint16))
        assert not out.base[:, 1::2].any()


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_blob_may_be_written_at_any_address(codec: str) -> None:
    x = sample((130, 2, 128), escapes=0)
    expected = kv.quantize(x, codec=codec)
    for shift in range(5):
        memory = np.zeros(len(expected) + 70, np.uint8)
        found = kv.quantize(x, codec=codec, out=memory[shift:])
        np.testing.assert_array_equal(found, expected)
        assert not memory[:shift].any()
        if len(expected) == kv.encoded_size(x, codec=codec):
            assert not memory[shift + len(expected) :].any()
        room = np.zeros(x.nbytes + 16, np.uint8)
        out = room[2 * shift : 2 * shift + x.nbytes].view(np.float16).reshape(x.shape)
        np.testing.assert_array_equal(kv.dequantize(found, out=out), kv.dequantize(expected))


def test_a_blob_says_what_it_is() -> None:
    info = kv.describe(encoded("int4_rot"))
    assert info == kv.BlobInfo("int4_rot", "key", "float16", (70, 2, 72), 64, False, 9, True)


def test_a_returned_blob_serves_as_the_next_output() -> None:
    x = sample(escapes=0)
    for codec in CODECS:
        blob = kv.quantize(x, codec=codec)
        assert blob.flags.writeable
        assert blob.ndim == 1
        assert blob.size == kv.encoded_size(x.shape, codec=codec, dtype="float16")
        again = kv.quantize(x, codec=codec, out=blob)
        assert np.shares_memory(again, blob)


def test_a_changed_floating_point_mode_changes_no_bit() -> None:
    torch = pytest.importorskip("torch")
    for codec in CODECS:
        x = values("subnormal", (70, 1, 80), "float32", 1).view(np.float32)
        expected = kv.quantize(x, codec=codec, kind="key")
        back = kv.dequantize(expected)
        torch.set_flush_denormal(True)
        try:
            found = kv.quantize(x, codec=codec, kind="key")
            again = kv.dequantize(found)
        finally:
            torch.set_flush_denormal(False)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(again.view(np.uint32), back.view(np.uint32))
