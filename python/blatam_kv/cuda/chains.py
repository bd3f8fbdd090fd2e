"""Names of token blocks where the tokens are: the digests of the store, many sequences at once."""

from __future__ import annotations

from typing import Any

from blatam_kv import _core
from blatam_kv.cuda import hosted, probe
from blatam_kv.cuda.memory import HOST, Place, place, stream_number
from blatam_kv.errors import InvalidRequest

_DIGEST_BYTES = 32
_MOST_KEY_BYTES = 64
_INTEGERS = ("int32", "uint32", "int64", "uint64")  # by their numbers in csrc/cuda/chains.h
_BOUNDS = ("int32", "int64")
_OUTSIDE, _NO_ROOM = -(2**63), -(2**63) + 1


def chain_digests(
    tokens: Any,
    *,
    block_tokens: int,
    parents: Any,
    digests: Any,
    counts: Any,
    begins: Any = None,
    lengths: Any = None,
    key: bytes = b"",
    stream: Any = None,
) -> None:
    """Name every whole block of many sequences, as ``KVStore`` names them.

    tokens: ids of 32 or 64 bits, all sequences behind one another [tokens], or one in each row
    [sequences, tokens], whose rows may lie apart. begins: where each of those behind one another
    begins, and where the last ends: int32 or int64 [sequences + 1] (an engine's ``cu_seqlens``);
    without it [tokens] is one sequence. lengths: how many ids of each row count, int32 or int64
    [sequences]; without it all do. parents: the digest that each first block continues, 32 bytes
    for all or uint8 [sequences, 32]. key: the store's salt, at most 64 bytes.

    digests: uint8 [sequences, blocks, 32], filled from the front of each row; what a sequence has
    no block for stays as it is, and ids after its last whole block are not looked at. counts: int64
    [sequences], how many digests each has. All of it contiguous, on one device (or the host) and
    alive until the work is done; stream: as for ``store``. Digest i of a sequence is
    BLAKE2b-256(digest i - 1, ids of block i as little-endian uint32), keyed, on a device as on the
    host.

    On a device it returns at once, and no digest may be believed before ``check_chained`` has seen
    ``counts``. Where the GPU cannot and all of it is torch's, the host does it by copies. Raises
    InvalidRequest for memory that does not fit, DeviceUnavailable where the GPU cannot: nothing was
    queued then.
    """
    import numpy as np

    ids = place(tokens, "tokens", None, dtypes=_INTEGERS, rows=True)
    ends = _bounds(begins, "begins", ids.device)
    spans = _bounds(lengths, "lengths", ids.device)
    sequences = _sequences(ids, ends, spans)
    out = _place(digests, "digests", ids.device, "uint8", written=True)
    if len(out.shape) != 3 or (out.shape[0], out.shape[2]) != (sequences, _DIGEST_BYTES):
        raise _wrong_shape("digests", out, f"({sequences}, blocks, 32)")
    said = _place(counts, "counts", ids.device, "int64", written=True)
    if said.shape != (sequences,):
        raise _wrong_shape("counts", said, f"({sequences},)")
    if not 1 <= block_tokens < 2**32:
        raise InvalidRequest(
            f"block_tokens is {block_tokens}; it must be 1 to 2**32 - 1", field="block_tokens"
        )
    if len(key) > _MOST_KEY_BYTES:
        raise InvalidRequest(f"key has {len(key)} bytes; at most 64 are allowed", field="key")
    first, each = _parents(parents, ids.device, sequences)
    item = np.dtype(ids.dtype).itemsize
    bounds = ends or spans
    job = (
        *_core.digest_state(key),
        (_INTEGERS.index(ids.dtype), _INTEGERS.index(bounds.dtype if bounds else "int64")),
        (
            ids.address,
            ends.address if ends else 0,
            spans.address if spans else 0,
            each,
            out.address,
            said.address,
        ),
        ids.size // item,
        (ids.shape[-1], ids.row_bytes // item if len(ids.shape) == 2 else 0),
        sequences,
        block_tokens,
        first,
        out.shape[1],
    )
    if ids.device == HOST:
        code = _core.run_chains(*job)
    elif probe.status().trouble is not None:
        memory = (tokens, parents, digests, counts, begins, lengths)
        if not hosted.is_torch(*(x for x in memory if not isinstance(x, bytes | None))):
            probe.status().require()
        with hosted.on_stream(
            None if stream is None else stream_number(stream, tokens, ids.device), tokens
        ):
            copies = [x if isinstance(x, bytes | None) else hosted.copied(x) for x in memory]
            _chain_copies(copies, digests, counts, block_tokens, key)
        return
    else:
        module = probe.module()
        code = module.run_chains(ids.device, stream_number(stream, tokens, ids.device), *job)
        if code >= module.CUDA_ERROR:
            raise probe.error_of(module, code)
    if code != 0:
        raise InvalidRequest(_core.chains_text(code), field="tokens")


def check_chained(counts: Any) -> None:
    """Look at the counts of ``chain_digests``, on the host, when the work is done.

    counts: int64 [sequences], as the call filled it. Raises InvalidRequest naming the first
    sequence whose digests must not be used, and why; those of the others are good.
    """
    import numpy as np

    said = np.asarray(counts)
    wrong = np.flatnonzero(said < 0)
    if not wrong.size:
        return
    sequence = int(wrong[0])
    count = int(said[sequence])
    if count == _OUTSIDE:
        raise InvalidRequest(
            f"sequence {sequence} begins or ends where there are no tokens", field="begins"
        )
    if count == _NO_ROOM:
        raise InvalidRequest(
            f"sequence {sequence} has more blocks than there is room for", field="digests"
        )
    raise InvalidRequest(
        f"token {-1 - count} of sequence {sequence} is none; ids go from 0 to 4294967295",
        field="tokens",
    )


def _chain_copies(
    copies: list[Any], digests: Any, counts: Any, block_tokens: int, key: bytes
) -> None:
    tokens, parents, named, said, begins, lengths = copies
    chain_digests(
        tokens, block_tokens=block_tokens, parents=parents, digests=named, counts=said,
        begins=begins, lengths=lengths, key=key,
    )  # fmt: skip
    hosted.copy_back(named, digests)
    hosted.copy_back(said, counts)


def _place(memory: Any, name: str, device: int, *dtypes: str, written: bool = False) -> Place:
    return place(memory, name, device, dtypes=dtypes, written=written, beside="the tokens")


def _wrong_shape(name: str, found: Place, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"{name} have the shape {found.shape}; it must be {wanted}", field=name)


def _bounds(memory: Any, name: str, device: int) -> Place | None:
    return None if memory is None else _place(memory, name, device, *_BOUNDS)


def _sequences(ids: Place, begins: Place | None, lengths: Place | None) -> int:
    if len(ids.shape) not in (1, 2):
        raise _wrong_shape("tokens", ids, "(tokens,) or (sequences, tokens)")
    if begins is not None:
        if len(ids.shape) != 1 or lengths is not None:
            raise InvalidRequest(
                "begins go with tokens behind one another; with rows pass lengths", field="begins"
            )
        if len(begins.shape) != 1 or not begins.shape[0]:
            raise _wrong_shape("begins", begins, "(sequences + 1,)")
        return begins.shape[0] - 1
    sequences = ids.shape[0] if len(ids.shape) == 2 else 1
    if lengths is not None and lengths.shape != (sequences,):
        raise _wrong_shape("lengths", lengths, f"({sequences},)")
    if sequences >= 2**32:
        raise InvalidRequest(f"{sequences} sequences are too many for one call", field="tokens")
    return sequences


def _parents(parents: Any, device: int, sequences: int) -> tuple[bytes, int]:
    """A digest for all, or where there is one for each."""
    if isinstance(parents, bytes):
        if len(parents) != _DIGEST_BYTES:
            raise InvalidRequest(
                f"parents have {len(parents)} bytes; a digest has 32", field="parents"
            )
        return parents, 0
    found = _place(parents, "parents", device, "uint8")
    if found.shape != (sequences, _DIGEST_BYTES):
        raise _wrong_shape("parents", found, f"({sequences}, 32)")
    return bytes(_DIGEST_BYTES), found.address
