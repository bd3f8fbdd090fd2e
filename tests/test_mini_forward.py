"""The forward pass: equal to torch's, and the same bits with and without a reused prefix."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_models import TINY, write_tiny
from safetensors.torch import load_file

from blatam_kv.errors import InvalidRequest
from blatam_kv.truthgpt.decoder import Decoder, Memory
from blatam_kv.truthgpt.mini import WEIGHTS, Mini
from blatam_kv.truthgpt.protocol import FloatArray, Prefill, Tokens
from blatam_kv.truthgpt.weights import load_weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

from model import Network


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    return Mini(weights=write_tiny(tmp_path_factory.mktemp("tiny") / "m"))


@pytest.fixture(scope="module")
def shipped() -> Mini:
    return Mini()


def some_tokens(model: Mini, count: int, *, seed: int = 0) -> Tokens:
    vocab = model.weights.shape.vocab
    return np.random.default_rng(seed).integers(0, vocab, count).astype(np.int32)


def same(first: Prefill, second: Prefill) -> bool:
    """Whether two prefills left the same bits."""
    return all(
        a.tobytes() == b.tobytes()
        for a, b in (
            (first.logits, second.logits),
            (first.keys, second.keys),
            (first.values, second.values),
        )
    )


def until(done: Prefill, tokens: int) -> tuple[FloatArray, FloatArray]:
    """Keys and values of the first tokens."""
    return done.keys[:, :tokens].copy(), done.values[:, :tokens].copy()


# ---- torch is the oracle ------------------------------------------------------------------------


def torch_logits(path: Path, tokens: Tokens) -> FloatArray:
    network = Network(load_weights(path).shape)
    state = {k.removeprefix("model."): v.float() for k, v in load_file(path).items()}
    network.load_state_dict(state)
    with torch.no_grad():
        logits: FloatArray = network(torch.from_numpy(tokens).long()[None])[0].numpy()
    return logits


@pytest.mark.parametrize("name", ["tiny", "shipped"])
def test_logits_are_those_of_the_network_that_was_trained(name: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m") if name == "tiny" else WEIGHTS
    model = Mini(weights=path)
    tokens = some_tokens(model, 200, seed=3)
    expected = torch_logits(path, tokens)
    decoder = Decoder(model.weights)
    tolerance = 2e-4 * float(np.abs(expected).max())
    np.testing.assert_allclose(decoder.all_logits(tokens), expected, rtol=0, atol=tolerance)
    # One by one behind a prompt, as answers are written.
    memory = Memory.reserve(model.weights.shape, 200)
    last = decoder.prefill(tokens[:130], memory, 0)
    np.testing.assert_allclose(last, expected[129], rtol=0, atol=tolerance)
    for position in range(130, 200):
        last = decoder.step(int(tokens[position]), position, memory)
        np.testing.assert_allclose(last, expected[position], rtol=0, atol=tolerance)


# ---- bit equality -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(count=st.integers(1, TINY.context), block=st.integers(0, 8), seed=st.integers(0, 9))
def test_a_prefix_changes_no_bit(tiny: Mini, count: int, block: int, seed: int) -> None:
    tokens = some_tokens(tiny, count, seed=seed)
    whole = tiny.prefill(tokens)
    given_tokens = min(64 * block, count // 64 * 64)
    again = tiny.prefill(tokens, prefix=until(whole, given_tokens))
    assert same(whole, again)
    assert again.cached_tokens == min(given_tokens, (count - 1) // 64 * 64)
    assert whole.cached_tokens == 0


@settings(max_examples=40)
@given(
    shared=st.integers(1, 300),
    tails=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    seed=st.integers(0, 9),
)
def test_what_follows_changes_no_bit_before_it(
    tiny: Mini, shared: int, tails: tuple[int, int], seed: int
) -> None:
    tokens = some_tokens(tiny, shared, seed=seed)
    first, second = (
        tiny.prefill(np.concatenate([tokens, some_tokens(tiny, tail, seed=seed + 10 + i)]))
        for i, tail in enumerate(tails)
    )
    for a, b in zip(until(first, shared), until(second, shared), strict=True):
        assert a.tobytes() == b.tobytes()


def test_shipped_model_keeps_its_bits_behind_any_prefix(shipped: Mini) -> None:
    for count in (65, 128, 200, 449):
        tokens = some_tokens(shipped, count, seed=count)
        whole = shipped.prefill(tokens)
        for given_tokens in range(0, count + 1, 64):
            assert same(whole, shipped.prefill(tokens, prefix=until(whole, given_tokens)))


def test_a_block_from_one_prompt_serves_another(shipped: Mini) -> None:
    head = some_tokens(shipped, 192, seed=1)
    donor = shipped.prefill(np.concatenate([head, some_tokens(shipped, 17, seed=2)]))
    for tail in (1, 63, 64, 100):
        tokens = np.concatenate([head, some_tokens(shipped, tail, seed=3)])
        reused = shipped.prefill(tokens, prefix=until(donor, 192))
        assert reused.cached_tokens == 192
        assert same(shipped.prefill(tokens), reused)


def test_bits_are_kept_up_to_the_context_limit(shipped: Mini) -> None:
    tokens = some_tokens(shipped, shipped.context_tokens, seed=5)
    whole = shipped.prefill(tokens)
    assert np.isfinite(whole.logits).all()
    for given_tokens in (64, 3968, 4096):
        assert same(whole, shipped.prefill(tokens, prefix=until(whole, given_tokens)))


def test_layout_of_the_given_arrays_makes_no_difference(tiny: Mini) -> None:
    tokens = some_tokens(tiny, 150)
    whole = tiny.prefill(tokens)
    keys, values = until(whole, 128)
    turned = np.asfortranarray(keys), np.ascontiguousarray(values[::-1])[::-1]
    assert same(whole, tiny.prefill(tokens, prefix=turned))
    assert same(whole, tiny.prefill(tokens.astype(np.uint64)))


def test_the_result_is_the_callers_own(tiny: Mini) -> None:
    tokens = some_tokens(tiny, 100)
    first = tiny.prefill(tokens)
    prefix = until(first, 64)
    kept = prefix[0].copy()
    second = tiny.prefill(tokens, prefix=prefix)
    second.keys[:] = 0
    second.logits[:] = 0
    assert prefix[0].tobytes() == kept.tobytes()
    assert same(first, tiny.prefill(tokens))


def test_threads_share_a_model_without_a_lock(shipped: Mini) -> None:
    prompts = [some_tokens(shipped, count, seed=count) for count in (70, 100, 190, 256)]
    alone = [shipped.prefill(tokens) for tokens in prompts]
    fresh = Mini()  # loaded by whichever thread comes first
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fresh.prefill, prompts * 3))
    assert all(same(a, b) for a, b in zip(alone * 3, together, strict=True))


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros(0, np.int32),
        np.zeros((2, 2), np.int32),
        np.zeros(3, np.float32),
        np.array([0, -1], np.int32),
        np.array([0, TINY.vocab], np.int32),
    ],
    ids=["none", "two-dimensional", "fractions", "below", "above"],
)
def test_tokens_that_cannot_be_are_refused(tiny: Mini, tokens: Tokens) -> None:
    with pytest.raises(InvalidRequest):
        tiny.prefill(tokens)


def test_more_tokens_than_the_context_are_refused_with_both_numbers(tiny: Mini) -> None:
    with pytest.raises(InvalidRequest, match=r"513 tokens.*512"):
        tiny.prefill(np.zeros(513, np.int32))


@pytest.mark.parametrize("tokens", [63, 65, 128], ids=["short", "uneven", "longer than the prompt"])
def test_a_prefix_that_does_not_fit_is_refused(tiny: Mini, tokens: int) -> None:
    layers, heads, dim = tiny.kv_shape
    half = np.zeros((layers, tokens, heads, dim), np.float32)
    with pytest.raises(InvalidRequest, match=f"not {tokens}"):
        tiny.prefill(some_tokens(tiny, 100), prefix=(half, half))


def test_a_prefix_of_another_shape_is_refused(tiny: Mini) -> None:
    layers, heads, dim = tiny.kv_shape
    right = np.zeros((layers, 64, heads, dim), np.float32)
    for wrong in (right[:1], right[:, :, :1], right[..., :8], right[0], right[:, :0]):
        with pytest.raises(InvalidRequest, match="two arrays"):
            tiny.prefill(some_tokens(tiny, 100), prefix=(right, wrong))
