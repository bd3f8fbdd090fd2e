"""Keys and values made small: tensors to blobs and back.

A blob is self-describing bytes: 64 bytes of header, then a payload, both with a checksum. What each
codec stores, bit for bit, is in docs/CODECS.md. The work is done by native kernels with the GIL
released; every instruction set gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blatam_kv import _core
from blatam_kv.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

Kind = Literal["value", "key"]

NAMES: tuple[str, ...] = _core.codecs()
MOST_THREADS = 256
HEADER_BYTES = 64  # of every blob, before its payload


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a blob says of itself."""

    codec: str
    kind: str
    dtype: str  # bfloat16, float16 or float32
    shape: tuple[int, int, int]  # tokens, kv_heads, head_dim
    group: int  # values that share a scale; 0 where there is none
    lossless: bool
    seed: int
    checksum: bool


def quantize(
    x: Any,
    *,
    codec: str,
    kind: Kind = "value",
    out: Any = None,
    threads: int = 1,
    checksum: bool = True,
    seed: int = 0,
    dtype: str | None = None,
) -> Bytes:
    """Encode one tensor of keys or values as a blob.

    x: [tokens, kv_heads, head_dim], bfloat16, float16 or float32, on the CPU; outer dimensions may
    have any strides, the inner one is contiguous. See ``blatam_kv.tensors`` for what it may be.
    codec: one of ``codecs.NAMES``. kind: what x holds; several codecs treat keys and values
    differently. out: a writable contiguous buffer to write into; ``encoded_size`` tells how large,
    and a blob of the same codec and shape will do. threads: how many to use, this one included.
    checksum: whether the payload gets one; the header always does. seed: of the rotation in the
    codecs that rotate, recorded in the blob. dtype: what uint16 stands for, "bfloat16" (or
    "float16").

    Returns a writable 1-D uint8 array: a new one, or the part of ``out`` that was used. A tensor
    with NaN or infinities takes more room than ``encoded_size`` says, since their groups are kept
    as they are. Raises Unsupported for another dtype or device, InvalidRequest for anything else
    that does not fit.

    Source: docs/CODECS.md.
    """
    import numpy as np

    from blatam_kv import tensors

    key = _is_key(kind)
    _check_threads(threads)
    check_seed(seed)
    x, dtype = tensors.exported(x, dtype)
    if out is None:
        found, shape = _core.describe_tensor(x, dtype)
        room = np.empty(_core.blob_bytes(codec, key, found, *shape), np.uint8)
    else:
        room = contiguous_bytes(out, "out", writable=True)
    size = _core.encode_blob(x, room, codec, key, dtype, seed, threads, checksum)
    if size > room.size:
        if out is not None:
            raise InvalidRequest(f"out has {room.size} bytes, the blob takes {size}", field="out")
        room = np.empty(size, np.uint8)
        _core.encode_blob(x, room, codec, key, dtype, seed, threads, checksum)
    if size < room.size and out is None:
        room.resize(size, refcheck=False)
    return room[:size] if size < room.size else room


def dequantize(blob: Any, *, out: Any = None, threads: int = 1, dtype: str | None = None) -> Any:
    """Decode a blob, after checking it.

    blob: the bytes that ``quantize`` returned, in any contiguous buffer. out: where to put the
    values, a tensor of the blob's shape and dtype with any outer strides; its uint16 are taken as
    the bits of the blob's 16-bit type. threads: how many to use. dtype: what uint16 in ``out``
    stands for, where it should be checked.

    Returns ``out``, or a new numpy array [tokens, kv_heads, head_dim] of the blob's dtype, with
    bfloat16 as uint16 bits. Raises CorruptBlob for bytes that are not a blob or were altered (the
    contents of ``out`` are then unspecified), Unsupported for a codec or version that this build
    does not know, InvalidRequest where ``out`` does not fit.
    """
    from blatam_kv import tensors

    _check_threads(threads)
    blob = contiguous_bytes(blob, "blob", writable=False)
    if out is None:
        found = _core.describe_blob(blob)
        out = tensors.empty(found["shape"], found["dtype"])
        _core.decode_blob(blob, out, None, threads)
        return out
    target, declared = tensors.exported(out, dtype)
    _core.decode_blob(blob, target, declared, threads)
    return out


def encoded_size(x: Any, *, codec: str, kind: Kind = "value", dtype: str | None = None) -> int:
    """Bytes of the blob of a tensor whose values are finite; what ``quantize`` needs of ``out``.

    x: a tensor, or its shape (tokens, kv_heads, head_dim); a shape needs ``dtype``. Exact, except
    for codecs whose size depends on the values: there the most it can be.
    """
    from blatam_kv import tensors

    if isinstance(x, tuple | list):
        if len(x) != 3 or not all(isinstance(size, int) and size >= 0 for size in x):
            raise InvalidRequest(
                f"shape is {x!r}; it must be (tokens, kv_heads, head_dim)", field="x"
            )
        if dtype is None:
            raise InvalidRequest("a shape says no dtype; pass dtype=", field="dtype")
        shape = tuple(x)
        if max(shape[1:]) >= 2**32 or shape[0] >= 2**63:
            raise InvalidRequest(f"shape {x!r} is too large", field="x")
    else:
        dtype, shape = _core.describe_tensor(*tensors.exported(x, dtype))
    return _core.blob_bytes(codec, _is_key(kind), dtype, *shape)


def describe(blob: Any) -> BlobInfo:
    """What the header of a blob says, once it is checked; the payload is not read.

    Raises CorruptBlob or Unsupported as ``dequantize`` does.
    """
    return BlobInfo(**_core.describe_blob(contiguous_bytes(blob, "blob", writable=False)))


def _is_key(kind: str) -> bool:
    if kind not in ("value", "key"):
        raise InvalidRequest(f"kind is {kind!r}; it must be 'value' or 'key'", field="kind")
    return kind == "key"


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= MOST_THREADS:
        raise InvalidRequest(
            f"threads is {threads}; it must be 1 to {MOST_THREADS}", field="threads"
        )


def check_seed(seed: int) -> None:
    """Raises InvalidRequest for a seed that is not in 64 bits."""
    if not 0 <= seed < 2**64:
        raise InvalidRequest(f"seed is {seed}; it must be 0 to 2**64 - 1", field="seed")


def contiguous_bytes(buffer: Any, name: str, *, writable: bool) -> Bytes:
    """A contiguous buffer, or a CPU tensor of bytes, as a 1-D array over the same memory."""
    import numpy as np

    try:
        try:
            view = memoryview(buffer)
        except TypeError:
            view = np.from_dlpack(buffer).data
        view = view.cast("B")
    except (AttributeError, BufferError, TypeError, RuntimeError) as error:
        raise InvalidRequest(
            f"{name} must be a contiguous buffer of bytes: {error}", field=name
        ) from error
    if writable and view.readonly:
        raise InvalidRequest(f"{name} is read-only", field=name)
    return np.frombuffer(view, np.uint8)
