"""What a store is not meant to be given: each is a typed error that names the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from block_fakes import LAYOUT, SIZE, WEIGHT, BrokenTier, check, prompt_of, save, tensors_of

import blatam_kv as kv
from blatam_kv import ConfigError, InvalidRequest, TierUnavailable, Unsupported
from blatam_kv.blocks.prompt import Prompt


@pytest.fixture
def store() -> kv.KVStore:
    return kv.KVStore(LAYOUT, capacity_bytes="1MiB")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"layers": 0}, ConfigError, "layers must be at least 1"),
        ({"kv_heads": -1}, ConfigError, "kv_heads must be at least 1"),
        ({"head_dim": 1.5}, TypeError, "head_dim must be an int"),
        ({"layers": True}, TypeError, "layers must be an int"),
        ({"dtype": "int8"}, ConfigError, "dtype must be one of bfloat16"),
        ({"block_tokens": 48}, ConfigError, "block_tokens must be one of 16, 32, 64"),
        ({"layers": 1000, "kv_heads": 1000}, ConfigError, "use a smaller block_tokens"),
    ],
)
def test_a_layout_is_checked_when_it_is_made(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    good: dict[str, Any] = {"layers": 2, "kv_heads": 2, "head_dim": 64}
    with pytest.raises(error, match=message):
        kv.KVLayout(**good | fields)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layout": (2, 1, 3)}, TypeError, "layout must be a KVLayout"),
        ({"capacity_bytes": "8 apples"}, ConfigError, "write 1048576"),
        ({"capacity_bytes": WEIGHT - 1}, ConfigError, f"at least {WEIGHT}, one block"),
        ({"codec": "zip"}, ConfigError, "codec must be one of raw"),
        ({"codec": "int4_kc"}, ConfigError, "use block_tokens of 64, 128 or 256"),
        ({"codec": "k4v3"}, ConfigError, "pages of 64 tokens"),
        ({"policy": "best"}, ConfigError, "unknown policy"),
        ({"write": "never"}, ConfigError, "write must be 'save' or 'evict'"),
        ({"threads": 0}, ConfigError, "threads must be from 1"),
        ({"salt": "tenant"}, TypeError, "salt must be bytes"),
        ({"salt": bytes(65)}, ConfigError, "at most 64 bytes"),
        ({"model": 7}, TypeError, "model must be a str"),
        ({"rope": {"theta": object()}}, ConfigError, "rope must hold what JSON can say"),
        ({"read_only": True}, ConfigError, "read_only speaks of a folder"),
        ({"disk_bytes": "1GiB"}, ConfigError, "disk_bytes speaks of a folder"),
        ({"path": "x", "tier": BrokenTier()}, ConfigError, "pass one"),
        ({"path": "x", "disk_bytes": 1000}, ConfigError, "disk_bytes must be at least"),
    ],
)
def test_options_are_checked_before_anything_is_opened(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Any
) -> None:
    if "path" in options:
        options = options | {"path": tmp_path / "x"}
    with pytest.raises(error, match=message):
        kv.KVStore(options.pop("layout", LAYOUT), **{"capacity_bytes": "1MiB"} | options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1.0, 2.0], "1-D of float64"),
        ([True, False], "1-D of bool"),
        ("tokens", "0-D"),
        (7, "0-D"),
        ([[1, 2]], "2-D"),
        ([[1], [1, 2]], "list of ints"),
        ([1, None], "list of ints or a 1-D integer array"),
        ([1, -1], "one is -1"),
        ([1, 2**32], "one is 4294967296"),
        ([1, 2**64], "list of ints or a 1-D integer array"),
        (np.array([-(2**31)], np.int32), "one is -2147483648"),
        ({1, 2}, "0-D"),
    ],
)
def test_tokens_must_be_ids(store: kv.KVStore, tokens: Any, message: str) -> None:
    out = np.empty(LAYOUT.shape(0), np.float32)
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.match_prefix(tokens),
        lambda: store.load_prefix(tokens, out=(out, out)),
        lambda: store.save_prefix(tokens, out, out),
        lambda: store.pin_prefix(tokens),
        lambda: store.unpin_prefix(tokens),
    )
    for call in calls:
        with pytest.raises(InvalidRequest, match=message) as caught:
            call()
        assert caught.value.field == "tokens"


def test_no_tokens_are_a_prefix_of_nothing(store: kv.KVStore) -> None:
    save(store, prompt_of([1]))
    out = np.empty(LAYOUT.shape(0), np.float32)
    for tokens in ([], (), np.empty(0, np.int64), prompt_of([], 5)):
        assert store.match_prefix(tokens) == 0
        assert store.load_prefix(tokens, out=(out, out)) == 0
        assert store.pin_prefix(tokens) == store.unpin_prefix(tokens) == 0
    assert store.save_prefix([], out, out) == 0


def test_a_huge_prompt_that_is_not_cached_costs_a_look_at_its_beginning(
    store: kv.KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, prompt_of([1]))
    digested = []
    digests = Prompt.digests

    def counting(self: Prompt, first: int, last: int) -> bytes:
        digested.append(last - first)
        return digests(self, first, last)

    monkeypatch.setattr(Prompt, "digests", counting)
    assert store.match_prefix(np.arange(4_000_000)) == 0
    assert 0 < sum(digested) <= 100


GOOD = tensors_of(prompt_of([1, 2]))[0]


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (GOOD[0], InvalidRequest, r"must have the shape \[2, tokens, 1, 3\]"),
        (GOOD[:1], InvalidRequest, "must have the shape"),
        (GOOD[..., :2], InvalidRequest, "must have the shape"),
        (GOOD.astype(np.float64), Unsupported, "must hold bfloat16, float16 or float32"),
        (GOOD.astype(np.float16), InvalidRequest, "holds float16"),
        (GOOD.astype(np.uint16), Unsupported, "holds 16-bit integers"),
        (GOOD.astype(np.int32), Unsupported, "must hold"),
        (np.repeat(GOOD, 2, 3)[..., ::2], InvalidRequest, "inner dimension is not contiguous"),
        (GOOD.tolist(), InvalidRequest, "must be a numpy array or a torch tensor, not list"),
        (None, InvalidRequest, "must be a numpy array or a torch tensor"),
    ],
)
@pytest.mark.parametrize("which", ["keys", "values"])
def test_tensors_must_fit_the_layout(
    store: kv.KVStore, tensor: Any, error: type[Exception], message: str, which: str
) -> None:
    save(store, prompt_of([1, 2]))
    pair = (tensor, GOOD.copy()) if which == "keys" else (GOOD.copy(), tensor)
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.save_prefix(prompt_of([1, 2]), *pair),
        lambda: store.load_prefix(prompt_of([1, 2]), out=pair),
    )
    for call in calls:
        with pytest.raises(error, match=f"{which} .*{message}"):
            call()
    check(store)
    assert store.stats().damaged == 0


def test_tensors_must_belong_together(store: kv.KVStore) -> None:
    with pytest.raises(InvalidRequest, match="keys have 32 tokens and values 31"):
        store.save_prefix(prompt_of([1, 2]), GOOD, GOOD[:, 1:])
    with pytest.raises(InvalidRequest, match="have 32 tokens, tokens has 33"):
        store.save_prefix(prompt_of([1, 2], 1), GOOD, GOOD)
    with pytest.raises(InvalidRequest, match="two tensors"):
        store.load_prefix(prompt_of([1]), out=GOOD)  # type: ignore[arg-type]


def test_out_must_be_writable_and_each_place_its_own(store: kv.KVStore) -> None:
    import torch

    save(store, prompt_of([1, 2]))
    fixed = GOOD.copy()
    fixed.flags.writeable = False
    with pytest.raises(InvalidRequest, match="values cannot be used"):
        store.load_prefix(prompt_of([1, 2]), out=(GOOD.copy(), fixed))
    for one in (GOOD.copy(), torch.from_numpy(GOOD.copy())):
        with pytest.raises(InvalidRequest, match="same memory; each takes its own"):
            store.load_prefix(prompt_of([1, 2]), out=(one, one))
    both = np.zeros((2, 2, *GOOD.shape[1:]), GOOD.dtype)
    assert store.load_prefix(prompt_of([1, 2]), out=(both[:, 0], both[:, 1])) == 32
    shared = torch.zeros(2, 1, 1, 3).expand(LAYOUT.shape(32))
    with pytest.raises(InvalidRequest, match="same memory more than once"):
        store.load_prefix(prompt_of([1, 2]), out=(torch.zeros(LAYOUT.shape(32)), shared))
    assert store.stats().damaged == 0
    assert store.match_prefix(prompt_of([1, 2])) == 2 * SIZE


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "5", True])
def test_a_pin_lasts_for_a_positive_time(store: kv.KVStore, ttl: Any) -> None:
    with pytest.raises(InvalidRequest, match="ttl must be a positive number"):
        store.pin_prefix(prompt_of([1]), ttl=ttl)


def test_a_closed_store_says_so(store: kv.KVStore) -> None:
    save(store, prompt_of([1]))
    store.close()
    store.close()
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.match_prefix([1]),
        lambda: store.save_prefix(prompt_of([1, 2]), GOOD, GOOD),
        lambda: store.load_prefix([1], out=(GOOD.copy(), GOOD.copy())),
        store.clear,
        store.flush,
    )
    for call in calls:
        with pytest.raises(TierUnavailable, match="the store is closed"):
            call()


def test_running_out_of_memory_stores_less_and_fails_nothing(
    store: kv.KVStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, prompt_of([1]))
    monkeypatch.setattr(store._levels, "portion", 1)
    encode, calls = store._levels.packing.encode, []

    def short(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 2:
            raise MemoryError
        return encode(*arguments)

    monkeypatch.setattr(store._levels.packing, "encode", short)
    assert save(store, prompt_of([1, 2, 3, 4, 5])) == 3 * SIZE
    check(store)
