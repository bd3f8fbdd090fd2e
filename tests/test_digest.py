"""Digests equal hashlib's, chains equal digests one by one, checksums equal their definition."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
import threading
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv import _core

NO_PARENT = bytes(32)
KEYS = st.binary(max_size=64)
TOKEN = st.integers(0, 2**32 - 1)
ISAS = ("baseline", "avx2", "avx512")


# Any: numpy's stubs call an array a Buffer only from Python 3.12 on.
def chain_digests(tokens: Any, *, block_tokens: int, parent: bytes, key: bytes = b"") -> bytes:
    return _core.chain_digests(tokens, block_tokens=block_tokens, parent=parent, key=key)


def blake2b(data: bytes, key: bytes = b"", person: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=32, key=key, person=person).digest()


def frame(field: bytes) -> bytes:
    return len(field).to_bytes(4, "big") + field


def chain(tokens: list[int], block_tokens: int, parent: bytes, key: bytes) -> bytes:
    """What chain_digests promises, one block at a time through hashlib."""
    out = b""
    for end in range(block_tokens, len(tokens) + 1, block_tokens):
        ids = tokens[end - block_tokens : end]
        parent = blake2b(parent + b"".join(i.to_bytes(4, "little") for i in ids), key)
        out += parent
    return out


# ---- one message --------------------------------------------------------------------------------


@given(data=st.binary(max_size=2000), key=KEYS, person=st.binary(max_size=16))
def test_a_digest_is_that_of_hashlib(data: bytes, key: bytes, person: bytes) -> None:
    assert _core.blake2b(data, key=key, person=person) == blake2b(data, key, person)


@pytest.mark.parametrize("key", [b"", b"k", bytes(range(64))])
def test_digests_around_every_block_border_are_those_of_hashlib(key: bytes) -> None:
    data = os.urandom(520)
    for length in range(len(data) + 1):
        assert _core.blake2b(data[:length], key=key) == blake2b(data[:length], key)


def test_a_large_message_from_a_writable_view_is_that_of_hashlib() -> None:
    data = bytearray(os.urandom(1 << 20))
    assert _core.blake2b(memoryview(data)[1:]) == blake2b(bytes(data[1:]))


@pytest.mark.parametrize("options", [{"key": bytes(65)}, {"person": bytes(17)}])
def test_a_key_or_person_that_is_too_long_is_refused(options: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"bytes; at most (64|16)"):
        _core.blake2b(b"", **options)


# ---- framed fields ------------------------------------------------------------------------------


@given(fields=st.lists(st.binary(max_size=300), max_size=8), key=KEYS)
def test_framed_fields_are_their_lengths_and_bytes_joined(fields: list[bytes], key: bytes) -> None:
    assert _core.framed_digest(fields, key=key) == blake2b(b"".join(map(frame, fields)), key)


def test_moving_a_border_between_fields_changes_the_digest() -> None:
    splits = [[b"org_1", b"2345"], [b"org_12345", b""], [b"", b"org_12345"], [b"org_12345"]]
    assert len({_core.framed_digest(fields) for fields in splits}) == len(splits)


def test_the_published_vector_of_a_tenant_and_a_response_holds() -> None:
    master = bytes(range(32))
    message = b"blatam-kv/tenant-salt/v1" + frame(b"tenant-1")
    salt = hmac.digest(master, message, "sha256")
    assert salt.hex() == "b0ef4fc03c05eb4fdac60fce93e3c4adb59b1bb80cd63cd907e900b6f39b1ef5"
    fields = [b"truthgpt", b"0.0", b"512", b"markdown", b"Informe solar"]
    digest = _core.framed_digest(fields, key=salt, person=b"blatamkv-resp-v1")
    assert digest.hex() == "e8162db7d76c9625784391c2a61a0234fc53877a997114d5120bb8aa80367ea1"


# ---- chains over tokens -------------------------------------------------------------------------


@given(
    tokens=st.lists(TOKEN, max_size=200),
    block_tokens=st.integers(1, 70),
    parent=st.binary(min_size=32, max_size=32),
    key=KEYS,
)
def test_a_chain_is_its_blocks_hashed_one_after_another(
    tokens: list[int], block_tokens: int, parent: bytes, key: bytes
) -> None:
    expected = chain(tokens, block_tokens, parent, key)
    for dtype in (np.uint32, np.int64, np.uint64):
        ids = np.array(tokens, dtype)
        assert chain_digests(ids, block_tokens=block_tokens, parent=parent, key=key) == expected


@given(tokens=st.lists(st.integers(0, 2**31 - 1), max_size=200), block_tokens=st.integers(1, 70))
def test_the_integer_type_of_tokens_makes_no_difference(
    tokens: list[int], block_tokens: int
) -> None:
    buffers = [np.array(tokens, dtype) for dtype in (np.int32, np.uint32, np.int64, np.uint64)]
    answers = {
        chain_digests(tokens, block_tokens=block_tokens, parent=NO_PARENT)
        for tokens in [*buffers, array("i", tokens), array("q", tokens)]
    }
    assert answers == {chain(tokens, block_tokens, NO_PARENT, b"")}


@pytest.mark.parametrize("block_tokens", [24, 25, 1024, 1025, 3000])
def test_blocks_around_inner_limits_are_right(block_tokens: int) -> None:
    tokens = np.random.default_rng(1).integers(0, 2**32, 3 * block_tokens + 1, np.int64)
    expected = chain(tokens.tolist(), block_tokens, NO_PARENT, b"")
    for ids in (tokens, tokens.astype(np.uint32)):
        assert chain_digests(ids, block_tokens=block_tokens, parent=NO_PARENT) == expected


def test_a_chain_goes_on_from_its_last_digest() -> None:
    tokens = np.arange(160, dtype=np.int32)
    whole = chain_digests(tokens, block_tokens=16, parent=NO_PARENT)
    rest = chain_digests(tokens[64:], block_tokens=16, parent=whole[96:128])
    assert rest == whole[128:]


def test_a_tail_shorter_than_a_block_is_ignored() -> None:
    tokens = np.array([1, 2, 3, 4, -5])
    whole = chain_digests(tokens, block_tokens=4, parent=NO_PARENT)
    assert whole == chain([1, 2, 3, 4], 4, NO_PARENT, b"")
    assert chain_digests(tokens, block_tokens=6, parent=NO_PARENT) == b""
    assert chain_digests(tokens[:0], block_tokens=1, parent=NO_PARENT) == b""


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.int32, -1), (np.int64, -(2**63)), (np.int64, 2**32), (np.uint64, 2**64 - 1)],
)
@pytest.mark.parametrize("index", [0, 77, 319])
def test_an_id_that_is_no_token_is_named(dtype: npt.DTypeLike, value: int, index: int) -> None:
    tokens = np.zeros(320, dtype)
    tokens[index] = value
    with pytest.raises(ValueError, match=rf"\b{index}\b.* {value}\b"):
        chain_digests(tokens, block_tokens=16, parent=NO_PARENT)


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros(16, np.float32),
        np.zeros(16, np.float64),
        np.zeros(16, np.int16),
        np.zeros((4, 4), np.int32),
        np.int32(3),
        b"sixteen bytes...",
    ],
)
def test_what_is_not_a_row_of_integers_is_refused(tokens: object) -> None:
    with pytest.raises(TypeError):
        chain_digests(tokens, block_tokens=4, parent=NO_PARENT)


@pytest.mark.parametrize(
    "options",
    [
        {"block_tokens": 0, "parent": NO_PARENT},
        {"block_tokens": -1, "parent": NO_PARENT},
        {"block_tokens": 4, "parent": bytes(31)},
        {"block_tokens": 4, "parent": bytes(33)},
        {"block_tokens": 4, "parent": NO_PARENT, "key": bytes(65)},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"block_tokens|parent|key"):
        chain_digests(np.zeros(8, np.int32), **options)  # type: ignore[arg-type]


def test_tokens_that_are_not_contiguous_are_refused_not_misread() -> None:
    with pytest.raises((BufferError, ValueError, TypeError)):
        chain_digests(np.arange(32)[::2], block_tokens=4, parent=NO_PARENT)


def test_threads_get_the_digests_of_their_own_tokens() -> None:
    prompts = [np.full(64_000, i, np.int32) for i in range(4)]
    expected = [chain_digests(p, block_tokens=64, parent=NO_PARENT) for p in prompts]
    found: list[bytes] = [b""] * len(prompts)

    def work(i: int) -> None:
        found[i] = chain_digests(prompts[i], block_tokens=64, parent=NO_PARENT)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# ---- checksums ----------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """The definition, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksums_equal_the_vectors_of_rfc_3720() -> None:
    assert _core.crc32c(bytes(32)) == 0x8A9136AA
    assert _core.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _core.crc32c(bytes(range(32))) == 0x46DD794E
    assert _core.crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C


@given(data=st.binary(max_size=1500))
def test_a_checksum_is_that_of_its_definition(data: bytes) -> None:
    assert _core.crc32c(data) == crc32c(data)


@given(data=st.binary(max_size=5000), cut=st.integers(0, 5000))
def test_a_checksum_goes_on_with_the_next_piece(data: bytes, cut: int) -> None:
    assert _core.crc32c(data[cut:], _core.crc32c(data[:cut])) == _core.crc32c(data)


# ---- instruction sets ---------------------------------------------------------------------------

ANSWERS = """
import hashlib, numpy as np
from blatam_kv import _core
data = bytes(range(256)) * 40
tokens = np.arange(4000, dtype=np.int32)
answers = [_core.blake2b(data[:n], key=b"k") for n in range(0, 700, 7)]
answers += [_core.chain_digests(tokens, block_tokens=n, parent=bytes(32)) for n in (1, 16, 64, 999)]
answers += [_core.crc32c(data[n:]).to_bytes(4, "big") for n in range(0, 9000, 11)]
print(_core.isa(), hashlib.sha256(b"".join(answers)).hexdigest())
"""


def answers_under(isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BLATAM_KV_ISA"}
    if isa is not None:
        environment["BLATAM_KV_ISA"] = isa
    return subprocess.run(
        [sys.executable, "-c", ANSWERS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_instruction_set_of_this_machine_gives_the_same_answers() -> None:
    best = answers_under(None).stdout.split()
    assert best[0] in ISAS
    for isa in ISAS[: ISAS.index(best[0]) + 1]:
        assert answers_under(isa).stdout.split() == [isa, best[1]]


def test_an_unknown_instruction_set_is_an_error_that_lists_what_there_is() -> None:
    refused = answers_under("sse9")
    assert refused.returncode == 1
    assert "BLATAM_KV_ISA=sse9" in refused.stderr
    assert "baseline" in refused.stderr
