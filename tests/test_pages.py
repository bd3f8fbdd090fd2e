"""Pages hold what one array of tokens would: append, read, fork and crop against a list."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import blatam_kv as kv

Array = npt.NDArray[Any]
HEADS, DIM = 2, 8


def tokens(count: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, HEADS, DIM)).astype(np.float16)


def through(x: Array, codec: str, kind: str) -> Array:
    decoded: Array = kv.dequantize(kv.quantize(x, codec=codec, kind=kind))  # type: ignore[arg-type]
    return decoded


class Model:
    """What pages promise, as one array: exact tokens, and once sealed, what the codec left of them."""

    def __init__(self, codec: str, kind: str, sink: int, residual: int) -> None:
        self.codec, self.kind, self.sink, self.residual = codec, kind, sink, residual
        self.held = np.empty((0, HEADS, DIM), np.float16)
        self.sealed = 0

    def append(self, x: Array) -> None:
        self.held = np.concatenate([self.held, x])
        while len(self.held) - self.sealed >= self.residual + 64:
            page = slice(self.sealed, self.sealed + 64)
            codec = "raw" if self.sealed < self.sink else self.codec
            self.held[page] = through(self.held[page], codec, self.kind)
            self.sealed += 64

    def crop(self, count: int) -> None:
        self.held = self.held[:count].copy()
        self.sealed = min(self.sealed, count // 64 * 64)

    def copy(self) -> Model:
        other = Model(self.codec, self.kind, self.sink, self.residual)
        other.held, other.sealed = self.held.copy(), self.sealed
        return other


class PagesBesideAnArray(RuleBasedStateMachine):
    @initialize(
        codec=st.sampled_from(["raw", "int8", "int4_kc", "int4_rot"]),
        kind=st.sampled_from(["key", "value"]),
        sink=st.sampled_from([0, 64, 128]),
        residual=st.sampled_from([0, 1, 63, 64, 100]),
    )
    def start(self, codec: str, kind: str, sink: int, residual: int) -> None:
        self.pages = kv.Pages(
            kv_heads=HEADS, head_dim=DIM, dtype="float16", codec=codec, kind=kind,  # type: ignore[arg-type]
            sink=sink, residual=residual,
        )  # fmt: skip
        self.model = Model(codec, kind, sink, residual)
        self.others: list[tuple[kv.Pages, Model]] = []

    @rule(count=st.sampled_from([0, 1, 2, 63, 64, 65, 200]), seed=st.integers(0, 99))
    def append(self, count: int, seed: int) -> None:
        x = tokens(count, seed)
        self.model.append(x)
        assert self.pages.append(x) == len(self.model.held)

    @rule(share=st.floats(0, 1))
    def crop(self, share: float) -> None:
        count = int(share * len(self.model.held))
        self.pages.crop(count)
        self.model.crop(count)

    @rule()
    def fork(self) -> None:
        if len(self.others) < 3:
            self.others.append((self.pages, self.model))
            self.pages, self.model = self.pages.fork(), self.model.copy()

    @rule(a=st.floats(0, 1), b=st.floats(0, 1))
    def read_some(self, a: float, b: float) -> None:
        start, stop = sorted(int(share * len(self.model.held)) for share in (a, b))
        found = self.pages.read(start, stop)
        np.testing.assert_array_equal(found, self.model.held[start:stop])

    @invariant()
    def all_that_was_written_is_there(self) -> None:
        if not hasattr(self, "pages"):
            return
        for pages, model in [(self.pages, self.model), *self.others]:
            assert len(pages) == len(model.held)
            assert pages.sealed == model.sealed
            np.testing.assert_array_equal(pages.read(), model.held)


TestPagesBesideAnArray = PagesBesideAnArray.TestCase
TestPagesBesideAnArray.settings = settings(max_examples=30, stateful_step_count=15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_torch_go_in_and_come_out(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    x = torch.randn(3, 150, HEADS, DIM).to(dtype)
    pages = kv.Pages(kv_heads=HEADS, head_dim=DIM, dtype=name, codec="int8", kind="key")
    for piece in torch.tensor_split(x[1], 5):
        pages.append(piece)
    out = torch.empty(150, HEADS, DIM, dtype=dtype)
    assert pages.read(out=out) is out
    assert torch.equal(out[128:], x[1, 128:])
    for page, begin in enumerate((0, 64)):
        part = slice(begin, begin + 64)
        expected = torch.empty_like(out[part])
        kv.dequantize(kv.quantize(x[1, part], codec="int8", kind="key"), out=expected)
        assert torch.equal(out[part], expected)
        assert kv.describe(pages.blobs[page]).shape == (64, HEADS, DIM)


def test_appending_never_touches_a_page_again() -> None:
    pages = kv.Pages(kv_heads=HEADS, head_dim=DIM, dtype="float16", codec="int4")
    pages.append(tokens(640, 1))
    before = [id(blob) for blob in pages.blobs]
    for seed in range(100):
        pages.append(tokens(1, seed))
    assert [id(blob) for blob in pages.blobs][:10] == before
    assert pages.nbytes == sum(map(len, pages.blobs)) + 2 * 64 * HEADS * DIM * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "int5"}, "unknown codec"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"sink": 10}, "multiple of 64"),
        ({"sink": -64}, "multiple of 64"),
        ({"residual": -1}, "residual is -1"),
        ({"kind": "query"}, "'value' or 'key'"),
        ({"kv_heads": 0}, "at least 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_pages_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {"kv_heads": 2, "head_dim": 8, "dtype": "float16", "codec": "int8"}
    with pytest.raises(kv.InvalidRequest, match=says):
        kv.Pages(**{**good, **options})


def test_tokens_of_another_kind_are_refused_and_nothing_is_added() -> None:
    pages = kv.Pages(kv_heads=HEADS, head_dim=DIM, dtype="float16", codec="int8")
    pages.append(tokens(3, 1))
    for x in (np.zeros((1, 2, 9), np.float16), np.zeros((1, 3, 8), np.float16),
              np.zeros((1, 2, 8), np.float32), np.zeros((1, 2, 8), np.uint16)):  # fmt: skip
        with pytest.raises((kv.InvalidRequest, kv.Unsupported)):
            pages.append(x)
    assert len(pages) == 3
    for start, stop in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(kv.InvalidRequest, match="there are 3"):
            pages.read(start, stop)
    with pytest.raises(kv.InvalidRequest, match="there are 3"):
        pages.crop(4)
    with pytest.raises(kv.InvalidRequest, match="out is float16"):
        pages.read(out=np.zeros((2, 2, 8), np.float16))
