"""Every codec gives the bytes and the values of its slow reference."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import codecs_golden
import numpy as np
import numpy.typing as npt
import pytest
from codec_reference import CODECS, DTYPES, blob
from codecs_inputs import HEAD_DIMS, KINDS_OF_DATA, ODD_HEAD_DIMS, values, with_escapes
from hypothesis import given
from hypothesis import strategies as st

import blatam_kv as kv
from blatam_kv import codecs

Array = npt.NDArray[Any]
BY_PAGE = ("int8_kc", "int4_kc", "k4v3")
KINDS: tuple[codecs.Kind, ...] = ("key", "value")


def as_given(x: Array, dtype: str) -> tuple[Array, str | None]:
    """Bit patterns as an array that quantize takes, and the dtype to declare."""
    if dtype == "bfloat16":
        return x, "bfloat16"
    return x.view(np.float16 if dtype == "float16" else np.float32), None


def bits(x: Array) -> Array:
    return x.view(np.uint32 if x.itemsize == 4 else np.uint16)


def check(x: Array, dtype: str, codec: str, kind: codecs.Kind, *, seed: int = 0) -> None:
    given, declared = as_given(x, dtype)
    expected, decoded = blob(x, dtype, codec, kind, seed=seed)
    found = kv.quantize(given, codec=codec, kind=kind, dtype=declared, seed=seed)
    assert found.tobytes() == expected
    back = kv.dequantize(found)
    assert back.shape == x.shape
    np.testing.assert_array_equal(bits(back), decoded)


def test_the_reference_knows_every_codec() -> None:
    assert {name for name in codecs.NAMES if not name.startswith("exp")} == set(CODECS)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data", KINDS_OF_DATA)
def test_blob_and_values_are_those_of_the_reference(codec: str, dtype: str, data: str) -> None:
    for kind in KINDS:
        check(values(data, (67, 2, 80), dtype, 1), dtype, codec, kind)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("head_dim", [*HEAD_DIMS, *ODD_HEAD_DIMS])
def test_every_head_size_gives_what_the_reference_gives(codec: str, head_dim: int) -> None:
    for dtype in DTYPES:
        for kind in KINDS:
            tokens = 66 if kind == "key" and codec in BY_PAGE else 3
            x = values("outliers", (tokens, 1, head_dim), dtype, head_dim)
            check(with_escapes(x, dtype, 2, head_dim), dtype, codec, kind)


@pytest.mark.parametrize("codec", CODECS)
@given(
    tokens=st.integers(0, 140),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 140),
    data=st.sampled_from(KINDS_OF_DATA),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    escapes=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_any_shape_gives_what_the_reference_gives(
    codec: str, tokens: int, heads: int, head_dim: int, data: str, dtype: str,
    kind: codecs.Kind, escapes: int, seed: int,
) -> None:  # fmt: skip
    tokens = min(tokens, 6000 // (heads * head_dim))
    x = with_escapes(values(data, (tokens, heads, head_dim), dtype, seed), dtype, escapes, seed)
    check(x, dtype, codec, kind, seed=seed)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_come_back_and_spoil_no_other_group(
    codec: str, dtype: str
) -> None:
    x = values("normal", (64, 4, 128), dtype, 5)
    clean_given, declared = as_given(x, dtype)
    spoiled = with_escapes(x, dtype, 5, 6)
    given, _ = as_given(spoiled, dtype)
    for kind in KINDS:
        back = bits(kv.dequantize(kv.quantize(given, codec=codec, kind=kind, dtype=declared)))
        bad = ~np.isfinite(given) if dtype != "bfloat16" else (spoiled & 0x7F80) == 0x7F80
        np.testing.assert_array_equal(back[bad], spoiled[bad])
        blob = kv.quantize(clean_given, codec=codec, kind=kind, dtype=declared)
        clean = bits(kv.dequantize(blob))
        assert (back != clean).sum() <= 5 * 576


# ---- golden vectors -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    with np.load(codecs_golden.PATH, allow_pickle=False) as vectors:
        return dict(vectors)


@pytest.mark.parametrize(("codec", "kind", "dtype"), list(codecs_golden.cases()))
def test_golden_vectors_are_met(
    golden: dict[str, Array], codec: str, kind: codecs.Kind, dtype: str
) -> None:
    name = f"{codec}/{kind}/{dtype}"
    given, declared = as_given(golden[f"input/{dtype}"], dtype)
    found = kv.quantize(given, codec=codec, kind=kind, dtype=declared, seed=codecs_golden.SEED)
    np.testing.assert_array_equal(found, golden[f"blob/{name}"])
    back = kv.dequantize(golden[f"blob/{name}"])
    assert hashlib.sha256(back.tobytes()).digest() == golden[f"values/{name}"].tobytes()


def test_golden_vectors_are_what_their_script_makes(golden: dict[str, Array]) -> None:
    for dtype in DTYPES:
        np.testing.assert_array_equal(golden[f"input/{dtype}"], codecs_golden.tensor(dtype))
    assert {name for name in golden if name.startswith("blob/")} == {
        "/".join(("blob", *case)) for case in codecs_golden.cases()
    }


# ---- the specification --------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "CODECS.md").read_text()


def test_the_example_of_the_specification_is_what_is_written() -> None:
    given = np.array([1, -2, 0.5, 3, 0.25, -1.5, 2, 0], np.float16).reshape(1, 1, 8)
    shown = re.search(r"```hex\n(.*?)```", PAGE, re.DOTALL)
    assert shown
    assert kv.quantize(given, codec="int4").tobytes() == bytes.fromhex(shown[1])
    assert kv.dequantize(bytes.fromhex(shown[1])).ravel()[0] == 1.001953125


def test_the_specification_lists_every_codec_with_its_id_and_group() -> None:
    for name, (number, (group, _), _) in CODECS.items():
        assert re.search(rf"^\| {number} \| `{name}` \|.*\| {group} \|", PAGE, re.MULTILINE), name
