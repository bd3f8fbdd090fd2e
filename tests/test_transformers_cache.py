"""Our transformers cache gives the tokens that ``DynamicCache`` gives, whatever is done to it."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers_models import FAMILIES, build, model_of, prompts

from blatam_kv.errors import ConfigError, InvalidRequest, Unsupported
from blatam_kv.integrations.transformers import KVCache
from blatam_kv.integrations.transformers.buffer import Buffer
from blatam_kv.integrations.transformers.layers import GrowingLayer
from blatam_kv.integrations.transformers.sealed import Scratch, SealedLayer

LOSSLESS = (None, "raw", "exp4")


def said(family: str, cache: Any, *lengths: int, **options: Any) -> list[list[int]]:
    """What a model answers to prompts of these lengths with this cache."""
    model = model_of(family)
    ids, mask = prompts(*lengths)
    torch.manual_seed(5)  # for those who draw lots
    options = {"max_new_tokens": 24, "cache": cache} | options
    answer = model.generate(ids, attention_mask=mask, **options)
    return answer[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


def theirs(family: str) -> DynamicCache:
    return DynamicCache(config=model_of(family).config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same_with_our_cache(family: str) -> None:
    expected = said(family, theirs(family), 90, 31, min_new_tokens=24)
    assert len({token for row in expected for token in row}) > 8  # else it would prove little
    for codec in LOSSLESS:
        cache = KVCache(model_of(family).config, codec=codec, sink=0, residual=0)
        assert said(family, cache, 90, 31, min_new_tokens=24) == expected


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "qwen3_next"])
@pytest.mark.parametrize("codec", [None, "raw"])
def test_beams_are_reordered_as_they_would_be(family: str, codec: str | None) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    cache = KVCache(model_of(family).config, codec=codec, sink=0, residual=0)
    assert said(family, cache, 70, 30, **options) == said(family, theirs(family), 70, 30, **options)
    assert cache.rearranged


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("codec", [None, "raw"])
def test_an_assistant_may_take_tokens_back(family: str, codec: str | None) -> None:
    expected = said(family, theirs(family), 40)
    for assistant in (model_of(family, seed=1), model_of(family)):  # rarely right, always right
        cache = KVCache(model_of(family).config, codec=codec, sink=0, residual=0)
        assert said(family, cache, 40, assistant_model=assistant) == expected


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_drawing_lots_copying_rows_and_prompts_in_pieces(family: str) -> None:
    for options in (
        {"do_sample": True, "num_return_sequences": 3, "top_k": 20},
        {"prefill_chunk_size": 16},
        {"prompt_lookup_num_tokens": 3},
    ):
        ours = KVCache(model_of(family).config)
        assert said(family, ours, 50, **options) == said(family, theirs(family), 50, **options)


def test_without_a_configuration_all_layers_see_everything() -> None:
    assert said("llama", KVCache(), 50, 20) == said("llama", DynamicCache(), 50, 20)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_rounding_codec_is_close_and_small(dtype: str) -> None:
    model = model_of("llama", dtype=dtype)
    ids, _ = prompts(500)
    exact, rounded = DynamicCache(config=model.config), KVCache(model.config, codec="int8")
    with torch.inference_mode():
        for cache in (exact, rounded):
            model(ids[:, :400], cache=cache)
        wanted, found = (model(ids[:, 400:], cache=cache).logits for cache in (exact, rounded))
    error = float((wanted - found).norm() / wanted.norm())
    assert 0 < error < 0.05
    full = sum(layer.keys.nbytes + layer.values.nbytes for layer in exact.layers)
    pages = sum(layer.nbytes for layer in rounded.layers)
    # Of 500 tokens 128 are kept as they are, and their room is twice that.
    assert pages < full * (0.85 if dtype == "float32" else 1.05)
    assert rounded.nbytes > pages


def test_tokens_appended_one_by_one_are_rarely_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = 0
    move = Buffer._move

    def counted(self: Buffer, *args: Any) -> None:
        nonlocal moved
        moved += len(self)
        move(self, *args)

    monkeypatch.setattr(Buffer, "_move", counted)
    layer = GrowingLayer()
    for _ in range(4096):
        layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert moved < 2 * 3 * 4096


# ---- layers beside the transformers ones ---------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.integers(1, 40)),
        st.tuples(st.just("crop"), st.integers(0, 30)),
        st.tuples(st.just("rows"), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
        st.tuples(st.just("record"), st.none()),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=60)
@given(STEPS, st.sampled_from([None, 1, 2, 9, 33]), st.booleans())
def test_a_layer_shows_what_theirs_shows_after_each_step(
    steps: list[tuple[str, Any]], window: int | None, sealed: bool
) -> None:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if window is None:
        reference: Any = DynamicLayer()
    else:
        reference = DynamicSlidingWindowLayer(window + 1)  # theirs cannot see a single token
    layer: Any = GrowingLayer(None if window is None else window + 1)
    if sealed and window is None:
        layer = SealedLayer(Scratch(), codec="raw", sink=0, residual=0)
    random = torch.Generator().manual_seed(len(steps))
    for step, value in steps:
        if step == "update":
            x = torch.randn((2, 2, value, 3), generator=random)
            assert layer.get_mask_sizes(value) == reference.get_mask_sizes(value)
            for shown, wanted in zip(layer.update(x, -x), reference.update(x, -x), strict=True):
                assert torch.equal(shown, wanted)
        elif step == "crop" and reference.is_initialized:
            removed = min(value, reference.get_seq_length())
            beyond = window is not None and reference.get_seq_length() > window
            if removed and beyond and not reference.record_past:
                with pytest.raises(Unsupported):
                    layer.crop(-removed)
                continue
            if not (removed == 0 and beyond and not reference.record_past):
                reference.crop(-removed)
            layer.crop(-removed)
        elif step == "rows" and reference.is_initialized:
            order = torch.tensor(value)
            layer.reorder_cache(order)
            reference.reorder_cache(order)
        elif step == "record" and window is not None:
            layer.activate_past_recording()
            reference.activate_past_recording()
        elif step == "reset":
            layer.reset()
            reference.reset()
        assert layer.get_seq_length() == reference.get_seq_length()
    if reference.get_seq_length() and not sealed:
        held = min(layer.keys.shape[2], reference.keys.shape[2])
        assert torch.equal(layer.keys[:, :, -held:], reference.keys[:, :, -held:])


@pytest.mark.parametrize("layer", [GrowingLayer(), GrowingLayer(8), None])
def test_rows_are_selected_and_repeated(layer: Any) -> None:
    layer = layer or SealedLayer(Scratch(), codec="raw", sink=0, residual=0)
    x = torch.randn(3, 2, 70, 4)
    layer.update(x, x)
    layer.batch_select_indices(torch.tensor([True, False, True]))
    layer.batch_repeat_interleave(2)
    y = torch.randn(4, 2, 1, 4)
    rows = torch.cat([x[[0, 0, 2, 2]], y], dim=2)
    assert torch.equal(layer.update(y, y)[0], rows[:, :, -(8 if layer.is_sliding else 71) :])


def test_a_fork_of_a_sealed_row_goes_its_own_way() -> None:
    layer = SealedLayer(Scratch(), codec="raw", sink=0, residual=0)
    x, y, z = torch.randn(1, 2, 100, 4), torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 4)
    layer.update(x, x)
    layer.reorder_cache(torch.tensor([0, 0]))
    layer.update(y, y)
    wanted = torch.cat([x.expand(2, -1, -1, -1), y, z], dim=2)
    assert torch.equal(layer.update(z, z)[0], wanted)


def test_what_layers_read_of_each_other_outlives_the_next_layer() -> None:
    full: dict[str, Any] = {"layer_types": ["full_attention"] * 4}
    for config, aliased in (
        (build("gemma3n", **full).config, False),
        (model_of("llama").config, True),
    ):
        cache = KVCache(config, codec="raw", sink=0, residual=0)
        x = torch.randn(1, 2, 70, 16)
        for layer in range(2):
            cache.update(x + layer, x + layer, layer)
        y = torch.zeros(1, 2, 1, 16)
        shown = [cache.update(y, y, layer)[0] for layer in range(2)]
        assert (shown[0].data_ptr() == shown[1].data_ptr()) == aliased
        assert torch.equal(shown[1][:, :, :70], x + 1)
        assert aliased or torch.equal(shown[0][:, :, :70], x)


def test_a_copy_of_a_cache_goes_its_own_way() -> None:
    model = model_of("mistral")
    ids, _ = prompts(60)
    cache = KVCache(model.config)
    with torch.inference_mode():
        model(ids[:, :40], cache=cache)
        other = copy.deepcopy(cache)
        wanted = model(ids[:, 40:], cache=cache).logits
        model(ids[:, 50:], cache=other)
        other.crop(0)
    assert cache.get_seq_length() == 60
    assert other.get_seq_length() == 50
    again = KVCache(model.config)
    with torch.no_grad():  # and what began in inference mode goes on outside it
        model(ids[:, :40], cache=again)
        assert torch.equal(model(ids[:, 40:], cache=again).logits, wanted)
        model(ids[:, 50:], cache=cache)


def test_a_reset_cache_is_as_good_as_new() -> None:
    model = model_of("gemma3")
    for codec in (None, "int8"):
        cache = KVCache(model.config, codec=codec)
        first = said("gemma3", cache, 50)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert said("gemma3", cache, 50) == first


def test_a_short_window_gives_back_what_a_long_prompt_took() -> None:
    layer = GrowingLayer(16)
    x = torch.zeros(1, 1, 5000, 4)
    assert layer.update(x, x)[0].shape[2] == 5000
    assert layer.nbytes < 2 * 4 * 4 * 200


# ---- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [GrowingLayer(), SealedLayer(Scratch(), codec="raw")])
def test_gradients_and_changed_shapes_are_refused(layer: Any) -> None:
    x = torch.zeros(2, 2, 3, 4)
    with pytest.raises(Unsupported, match=r"torch\.no_grad"):
        layer.update(x.clone().requires_grad_(), x)
    layer.reset()
    layer.update(x, x)
    for other in (torch.zeros(3, 2, 1, 4), torch.zeros(2, 1, 1, 4), torch.zeros(2, 2, 1, 5)):
        with pytest.raises((Unsupported, InvalidRequest)):
            layer.update(other, other)
        assert layer.get_seq_length() == 3
    for wrong in (1, -4):
        with pytest.raises(InvalidRequest, match="minus the number of tokens"):
            layer.crop(wrong)


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="codec must be one of raw"):
        KVCache(codec="zip")
    for name, value in (("sink", 3), ("residual", -1), ("seed", -1)):
        options: dict[str, Any] = {name: value}
        with pytest.raises(InvalidRequest):
            KVCache(codec="raw", **options)


def test_without_transformers_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "try: import blatam_kv.integrations.transformers\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'blatam-kv[local]'" in out.stdout
