"""Digests of token blocks by the code of the device: hashlib's, for many sequences at once.

Here it runs on the host, a sequence after the other. test_cuda_gpu.py runs it on a GPU.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv import _core, cuda
from blatam_kv.cuda import probe
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, InvalidRequest

Array = npt.NDArray[Any]
ROOT = bytes(32)
UNTOUCHED = 0xAB


def chain(ids: Any, block_tokens: int, parent: bytes, key: bytes) -> list[bytes]:
    """What a digest is, one block at a time through hashlib."""
    found = []
    for end in range(block_tokens, len(ids) + 1, block_tokens):
        message = parent + b"".join(
            int(i).to_bytes(4, "little") for i in ids[end - block_tokens : end]
        )
        parent = hashlib.blake2b(message, digest_size=32, key=key).digest()
        found.append(parent)
    return found


def run(
    tokens: Array, block_tokens: int, sequences: int, blocks: int, **options: Any
) -> tuple[Array, Array]:
    """Digests [sequences, blocks, 32] and counts."""
    digests = np.full((sequences, blocks, 32), UNTOUCHED, np.uint8)
    counts = np.full(sequences, 99, np.int64)
    options.setdefault("parents", ROOT)
    cuda.chain_digests(tokens, block_tokens=block_tokens, digests=digests, counts=counts, **options)
    return digests, counts


def check(
    prompts: list[Array], digests: Array, counts: Array, block_tokens: int, parents: list[bytes],
    key: bytes,
) -> None:  # fmt: skip
    cuda.check_chained(counts)
    for i, prompt in enumerate(prompts):
        expected = chain(prompt, block_tokens, parents[i], key)
        assert counts[i] == len(expected)
        assert [row.tobytes() for row in digests[i, : len(expected)]] == expected
        assert (digests[i, len(expected) :] == UNTOUCHED).all()


@given(
    lengths=st.lists(st.integers(0, 150), max_size=6),
    block_tokens=st.integers(1, 70),
    dtype=st.sampled_from(["int32", "uint32", "int64", "uint64"]),
    bounds=st.sampled_from(["int32", "int64"]),
    packed=st.booleans(),
    each=st.booleans(),
    key=st.binary(max_size=64),
    seed=st.integers(0, 2**32),
)
def test_digests_are_those_of_hashlib(
    lengths: list[int], block_tokens: int, dtype: str, bounds: str, packed: bool, each: bool,
    key: bytes, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    most = 2**31 if dtype == "int32" else 2**32
    prompts = [random.integers(0, most, n).astype(dtype) for n in lengths]
    parents = [random.bytes(32) if each else ROOT for _ in lengths]
    options: dict[str, Any] = {"key": key}
    if each:
        options["parents"] = np.frombuffer(b"".join(parents), np.uint8).reshape(-1, 32).copy()
    if packed:
        tokens = np.concatenate([*prompts, np.zeros(0, dtype)])
        options["begins"] = np.cumsum([0, *lengths]).astype(bounds)
    else:
        wide = random.integers(0, most, (len(lengths), max(lengths, default=0) + 3)).astype(dtype)
        tokens = wide[:, : wide.shape[1] - 2]  # rows that lie apart
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        options["lengths"] = np.array(lengths, bounds)
    blocks = max(lengths, default=0) // block_tokens + 1
    digests, counts = run(tokens, block_tokens, len(lengths), blocks, **options)
    check(prompts, digests, counts, block_tokens, parents, key)


@pytest.mark.parametrize("block_tokens", [1, 8, 16, 23, 24, 25, 55, 56, 57, 64, 88, 1024, 5000])
def test_blocks_around_every_border_of_a_compression_are_the_hosts(block_tokens: int) -> None:
    ids = np.random.default_rng(block_tokens).integers(0, 2**32, 4 * block_tokens - 1)
    digests, counts = run(ids, block_tokens, 1, 3, key=b"salt")
    expected = _core.chain_digests(ids, block_tokens=block_tokens, parent=ROOT, key=b"salt")
    assert digests.tobytes() == expected
    assert counts == 3


# Made once with hashlib, so that a mistake that oracle and code share is seen.
@pytest.mark.parametrize(
    ("block_tokens", "key", "golden"),
    [
        (16, b"tenant", {
            0: "7bd59a12a469f36e1bdcdea04d732cd460bf87c4e453d5f930a242ea25be57b9",
            4: "0b027d8f3790816a57d99220ff3faa010f55a40204deff6c5a26c3a4a14e9040",
        }),
        (40, b"", {
            0: "61269b37e86b478aa57c49049a022a7f2eeebe4b03a9b59fa99f88d651f5cca6",
            1: "9e7697a71b11de40065e16e5150aafb8219422dd8d8a41725ccae4e3310629f0",
        }),
    ],
)  # fmt: skip
def test_golden_vectors(block_tokens: int, key: bytes, golden: dict[int, str]) -> None:
    ids = (np.arange(80, dtype=np.uint64) * 2654435761 + 7) % 2**32
    digests, _ = run(ids, block_tokens, 1, 80 // block_tokens, parents=bytes(range(32)), key=key)
    assert {i: digests[0, i].tobytes().hex() for i in golden} == golden


def test_all_of_a_row_counts_without_lengths_and_one_sequence_needs_no_bounds() -> None:
    ids = np.arange(40, dtype=np.int32)
    rows, counts = run(np.stack([ids, ids + 1]), 16, 2, 2)
    assert counts.tolist() == [2, 2]
    check([ids, ids + 1], rows, counts, 16, [ROOT] * 2, b"")
    one, _ = run(ids, 16, 1, 2)
    np.testing.assert_array_equal(one[0], rows[0])


@pytest.mark.parametrize("packed", [True, False])
def test_no_sequences_and_no_tokens_are_no_work(packed: bool) -> None:
    if packed:
        _, counts = run(np.zeros(0, np.int64), 4, 0, 1, begins=np.zeros(1, np.int32))
        assert counts.size == 0
        _, counts = run(np.zeros(0, np.int64), 4, 2, 0, begins=np.zeros(3, np.int32))
    else:
        _, counts = run(np.zeros((0, 5), np.int64), 4, 0, 1)
        assert counts.size == 0
        _, counts = run(np.zeros((2, 0), np.int64), 4, 2, 0)
    assert counts.tolist() == [0, 0]


def test_read_only_tokens_are_read() -> None:
    ids = np.arange(32, dtype=np.int32)
    ids.flags.writeable = False
    digests, counts = run(ids, 16, 1, 2)
    check([ids], digests, counts, 16, [ROOT], b"")


# ---- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "bad"), [("int32", -1), ("int64", -1), ("int64", 2**32), ("uint64", 2**63)]
)
@pytest.mark.parametrize("at", [0, 7, 15, 16, 47])
def test_an_id_out_of_range_is_named_and_its_sequence_has_no_digest(
    dtype: str, bad: int, at: int
) -> None:
    good = np.arange(50).astype(dtype)
    tokens = np.stack([good, good, good])
    tokens[1, at] = bad
    tokens[0, 48:] = bad  # in no whole block: not looked at
    digests, counts = run(tokens, 16, 3, 3)
    assert counts.tolist() == [3, -1 - at, 3]
    check([good[:48]], digests[:1], counts[:1], 16, [ROOT], b"")
    assert set(digests[1].ravel()) <= {0, UNTOUCHED}
    with pytest.raises(InvalidRequest, match=f"token {at} of sequence 1"):
        cuda.check_chained(counts)


@pytest.mark.parametrize(
    ("begins", "bad"),
    [([0, 16, 8], [1]), ([-4, 16, 32], [0]), ([0, 2**40, 2**41], [0, 1]), ([16, 40, 41], [1])],
)
def test_a_sequence_where_there_are_no_tokens_is_never_read(
    begins: list[int], bad: list[int]
) -> None:
    tokens = np.arange(40, dtype=np.int32)
    digests, counts = run(tokens, 8, 2, 5, begins=np.array(begins, np.int64))
    for i in range(2):
        assert (counts[i] == -(2**63)) == (i in bad)
        if i in bad:
            assert (digests[i] == UNTOUCHED).all()
    with pytest.raises(InvalidRequest, match=f"sequence {bad[0]} begins or ends where"):
        cuda.check_chained(counts)


@pytest.mark.parametrize("length", [-1, 41])
def test_a_length_that_its_row_has_not_is_refused(length: int) -> None:
    tokens = np.zeros((2, 40), np.int32)
    _, counts = run(tokens, 8, 2, 5, lengths=np.array([40, length], np.int64))
    assert counts.tolist() == [5, -(2**63)]


def test_more_blocks_than_there_is_room_for_are_not_written() -> None:
    digests, counts = run(np.zeros((2, 40), np.int32), 8, 2, 4, lengths=np.array([39, 40]))
    assert counts.tolist() == [4, -(2**63) + 1]
    assert (digests[1] == UNTOUCHED).all()
    with pytest.raises(InvalidRequest, match="sequence 1 has more blocks"):
        cuda.check_chained(counts)


def bytes_at(offset: int, shape: tuple[int, ...], dtype: str = "uint8") -> Array:
    """Memory that begins ``offset`` bytes after a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    return room[begin : begin + size].view(dtype).reshape(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(32, np.float32)}, "tokens are float32"),
        ({"tokens": np.zeros((2, 2, 8), np.int32)}, "tokens have the shape"),
        ({"tokens": np.zeros((32, 2), np.int32).T}, "tokens must be contiguous"),
        ({"tokens": np.zeros((2, 32), np.int32)}, "digests have the shape"),
        ({"tokens": bytes_at(2, (32,), "int32")}, "misaligned: ids"),
        ({"begins": np.zeros(0, np.int32)}, "begins have the shape"),
        ({"begins": np.array([0.0, 32.0])}, "begins are float64; they must be int32 or int64"),
        ({"begins": np.zeros(2, np.int32), "lengths": np.zeros(1, np.int32)}, "with rows pass"),
        ({"lengths": np.zeros(2, np.int32)}, "lengths have the shape"),
        ({"lengths": np.zeros((1, 1), np.int64)}, "lengths have the shape"),
        ({"parents": b"short"}, "a digest has 32"),
        ({"parents": np.zeros((2, 32), np.uint8)}, "parents have the shape"),
        ({"parents": bytes_at(4, (1, 32))}, "misaligned: .* parents"),
        ({"digests": np.zeros((1, 2, 31), np.uint8)}, "digests have the shape"),
        ({"digests": np.zeros((1, 64), np.uint8)}, "digests have the shape"),
        ({"digests": np.zeros((1, 2, 32), np.int8)}, "digests are int8"),
        ({"digests": np.zeros((1, 4, 32), np.uint8)[:, ::2]}, "digests must be contiguous"),
        ({"digests": np.frombuffer(bytes(64), np.uint8).reshape(1, 2, 32)}, "are read-only"),
        ({"digests": bytes_at(1, (1, 2, 32))}, "misaligned"),
        ({"counts": np.zeros(2, np.int64)}, "counts have the shape"),
        ({"counts": np.zeros(1, np.int32)}, "counts are int32"),
        ({"counts": bytes_at(4, (1,), "int64")}, "misaligned"),
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"block_tokens": 2**32}, "block_tokens is"),
        ({"key": bytes(65)}, "at most 64"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {
        "tokens": np.zeros(32, np.int32), "block_tokens": 16, "parents": ROOT,
        "digests": np.zeros((1, 2, 32), np.uint8), "counts": np.zeros(1, np.int64),
    } | change  # fmt: skip
    with pytest.raises(InvalidRequest, match=message):
        cuda.chain_digests(options.pop("tokens"), **options)


# ---- a device that cannot -----------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says of given tensors that they lie on device 0; nothing else does anything there."""
    there: list[Any] = []
    described = _core.describe_memory

    def describe_memory(x: Any) -> Any:
        address, where, *rest = described(x)
        return address, 0 if any(x is tensor for tensor in there) else where, *rest

    monkeypatch.setattr(_core, "describe_memory", describe_memory)
    return there


def test_torchs_tensors_are_named_by_copies_where_the_gpu_cannot(
    device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    trouble = cuda.Status(False, (), None, 0, DeviceTrouble.NOT_BUILT, "built without CUDA")
    monkeypatch.setattr(probe, "status", lambda: trouble)
    ids = torch.arange(70)
    digests = torch.full((2, 3, 32), UNTOUCHED, dtype=torch.uint8)
    counts = torch.zeros(2, dtype=torch.int64)
    begins = torch.tensor([0, 50, 70], dtype=torch.int32)
    device += [ids, digests, counts, begins]
    cuda.chain_digests(
        ids, block_tokens=16, parents=ROOT, digests=digests, counts=counts, begins=begins, key=b"k"
    )
    prompts = [ids[:50].numpy(), ids[50:].numpy()]
    check(prompts, digests.numpy(), counts.numpy(), 16, [ROOT] * 2, b"k")
    other = np.zeros(70, np.int64)
    device.append(other)
    with pytest.raises(DeviceUnavailable, match="built without CUDA") as caught:
        cuda.chain_digests(
            other, block_tokens=16, parents=ROOT, digests=digests, counts=counts, begins=begins
        )
    assert caught.value.reason is DeviceTrouble.NOT_BUILT


def test_a_device_is_asked_with_the_callers_stream_and_its_codes_are_errors(
    device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    codes = iter([0, 1002, 1700, 7, 3])

    class Machine:
        CUDA_ERROR = 1000
        text = staticmethod(lambda code: f"text of {code}")

        @staticmethod
        def run_chains(*job: Any) -> int:
            asked.append(job)
            return next(codes)

    monkeypatch.setattr(probe, "module", lambda: Machine)
    monkeypatch.setattr(probe, "status", lambda: cuda.Status(True, ("80",), "13.0", 1, None, None))
    ids, digests = np.arange(32, dtype=np.int32), np.zeros((1, 2, 32), np.uint8)
    counts = np.zeros(1, np.int64)
    device += [ids, digests, counts]

    def ask() -> None:
        cuda.chain_digests(
            ids, block_tokens=16, parents=ROOT, digests=digests, counts=counts, stream=77
        )

    ask()
    assert asked[0][:2] == (0, 77)
    for reason in (DeviceTrouble.OUT_OF_MEMORY, DeviceTrouble.LOST):
        with pytest.raises(DeviceUnavailable) as caught:
            ask()
        assert caught.value.reason is reason
    for words in ("not belong to the device", "misaligned"):
        with pytest.raises(InvalidRequest, match=words):
            ask()
    with pytest.raises(InvalidRequest, match="counts lie on the host, the tokens on device 0"):
        cuda.chain_digests(
            ids, block_tokens=16, parents=ROOT, digests=digests, counts=counts.copy(), stream=0
        )
