"""Prompts whose beginning is in a ``KVStore`` give the tokens they would give without it."""

from __future__ import annotations

import json
import multiprocessing
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, GenerationConfig
from transformers_models import PAD, STORED, VOCAB, build, model_of, prompts

from blatam_kv import KVLayout, KVStore
from blatam_kv.errors import InvalidRequest, Unsupported
from blatam_kv.integrations.transformers import (
    KVCache,
    fingerprint,
    generate,
    keep,
    layout_of,
    restore,
    rows_of,
)
from blatam_kv.integrations.transformers.prefill import prefill_told

SIZE = 16


def store_of(model: Any, path: Path | None = None, **options: Any) -> KVStore:
    layout = layout_of(model, block_tokens=SIZE)
    return KVStore(layout, capacity_bytes="64MiB", path=path, **options)


def both(
    model: Any, ids: torch.Tensor, store: KVStore, **options: Any
) -> tuple[list[list[int]], list[list[int]]]:
    """What is said without the store and with it."""
    options = {"max_new_tokens": 20} | options
    torch.manual_seed(3)
    expected = model.generate(ids, **options).tolist()
    torch.manual_seed(3)
    return expected, generate(model, ids, store=store, **options).tolist()


def reused(store: KVStore) -> int:
    stats = store.stats()
    return stats.tokens_from_memory + stats.tokens_from_tier


@pytest.mark.parametrize("family", STORED)
def test_every_family_says_the_same_from_a_stored_beginning(family: str) -> None:
    model, (ids, _) = model_of(family), prompts(100)
    with store_of(model) as store:
        expected, found = both(model, ids[:, :70], store, min_new_tokens=20)
        assert found == expected
        assert reused(store) == 0
        # Whole blocks at least, and of the next one what it has in common.
        for length, cached in ((70, 64), (100, 64), (99, 96), (64, 64), (17, 16), (16, 16)):
            before = reused(store)
            expected, found = both(model, ids[:, :length], store)
            assert found == expected
            assert cached <= reused(store) - before <= length


def test_the_store_is_told_how_long_the_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, _) = model_of("llama"), prompts(100)
    told: list[int] = []

    def observe(self: KVStore, tokens: int, seconds: float) -> None:
        assert seconds > 0
        told.append(tokens)

    monkeypatch.setattr(KVStore, "observe", observe)
    with store_of(model) as store:
        generate(model, ids[:1, :70], store=store, max_new_tokens=5)
        assert told == [70]
        generate(model, ids[:1, :70], store=store, max_new_tokens=5)
        assert told == [70]  # fewer than a block were left
        generate(model, ids[:1], store=store, max_new_tokens=5)
        assert told == [70, 100 - 64]
        model(ids)
        assert len(told) == 2
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_only_the_call_that_is_meant_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, _) = model_of("llama"), prompts(100)
    told: list[int] = []

    def elsewhere() -> None:
        model(ids[:, :50])

    with prefill_told(model, lambda tokens, seconds: told.append(tokens), least=1):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert told == []
        model(input_ids=ids[:1, :30])
        model(ids[:1, :20])
    assert told == [30]
    with (
        pytest.raises(ValueError, match="no"),
        prefill_told(model, lambda tokens, seconds: told.append(tokens), least=1),
    ):
        raise ValueError("no")
    assert not model._forward_hooks
    embedded = model.get_input_embeddings()(ids)
    with prefill_told(model, lambda tokens, seconds: told.append(tokens), least=1):
        model(inputs_embeds=embedded)
    assert told == [30, embedded.shape[0] * embedded.shape[1]]


@pytest.mark.parametrize("family", STORED)
def test_rows_with_padding_share_what_they_can(family: str) -> None:
    model = model_of(family)
    ids, mask = prompts(90, 61, 34, 90)
    with store_of(model) as store:
        for _ in range(2):
            expected, found = both(model, ids, store, attention_mask=mask)
            assert found == expected
        assert reused(store)
        # The same prompts alone, and the mask left to be guessed from the pad tokens.
        for row, length in ((1, 61), (2, 34)):
            before = reused(store)
            expected, found = both(model, ids[row : row + 1, -length:], store)
            assert found == expected
            assert reused(store) - before >= length // SIZE * SIZE
        expected, found = both(model, ids, store)
        assert found == expected


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_beams_and_samples_start_from_a_stored_beginning(family: str) -> None:
    model = model_of(family)
    ids, mask = prompts(80, 41)
    config = GenerationConfig(max_new_tokens=7, pad_token_id=PAD, eos_token_id=2, bos_token_id=1)
    ways: list[dict[str, Any]] = [
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 10},
        {"repetition_penalty": 1.3, "max_new_tokens": 5},
        {"generation_config": config, "max_new_tokens": 7},
        {"prefill_chunk_size": 8},
    ]
    with store_of(model) as store:
        for way in ways:
            for _ in range(2):
                expected, found = both(model, ids, store, attention_mask=mask, **way)
                assert found == expected
        assert reused(store)


def test_beams_of_different_prompts_are_stored_each_under_its_own() -> None:
    model = model_of("llama")
    ids = torch.cat([prompts(50)[0], prompts(50, seed=1)[0]])
    with store_of(model) as store:
        for _ in range(2):
            expected, found = both(model, ids, store, num_beams=3)
            assert found == expected
        assert reused(store) >= 96


def test_everything_that_generate_returns_is_returned() -> None:
    model, (ids, _) = model_of("llama"), prompts(50)
    options: dict[str, Any] = {
        "max_new_tokens": 4,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    with store_of(model) as store:
        for cached in ((), (48,)):
            answer = generate(model, inputs=ids, store=store, **options)
            expected = model.generate(ids, **options)
            assert torch.equal(answer.sequences, expected.sequences)
            for scores, wanted in zip(answer.scores, expected.scores, strict=True):
                torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-3)
            assert answer.cache.reused == cached


def test_an_answer_is_a_beginning_too() -> None:
    model, (ids, _) = model_of("llama"), prompts(40)
    with store_of(model) as store:
        answer = generate(model, ids, store=store, max_new_tokens=40, min_new_tokens=40)
        longer = torch.cat([answer, ids[:, :9]], dim=1)
        before = reused(store)
        expected, found = both(model, longer, store, attention_mask=torch.ones_like(longer))
        assert found == expected
        assert reused(store) - before == (40 + 39) // SIZE * SIZE  # the last token was never read


def test_pieces_of_a_block_give_the_same_bits_however_much_is_cached() -> None:
    model, (ids, _) = model_of("mistral"), prompts(96)
    options: dict[str, Any] = {
        "max_new_tokens": 6,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    runs = []
    with store_of(model) as store:
        for length in (96, 96, 50, 96):
            answer = generate(
                model, ids[:, :length], store=store, prefill_chunk_size=SIZE, **options
            )
            if length == 96:
                runs.append(torch.stack(answer.logits))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_restored_bit_for_bit(dtype: str) -> None:
    model, (ids, _) = model_of("qwen3", dtype=dtype), prompts(64)
    with store_of(model, codec="exp4") as store:
        generate(model, ids, store=store, max_new_tokens=2)
        exact, cache = DynamicCache(config=model.config), KVCache(model.config, keep_past=True)
        with torch.inference_mode():
            model(ids, cache=exact)
        assert restore(cache, store, rows_of(ids)) == 63
        for ours, theirs in zip(cache.layers, exact.layers, strict=True):
            assert torch.equal(ours.keys, theirs.keys[:, :, :63])
            assert torch.equal(ours.values, theirs.values[:, :, :63])


def test_a_compressed_cache_can_start_from_a_store() -> None:
    model, (ids, _) = model_of("llama"), prompts(300)
    with store_of(model) as store:
        expected, found = both(model, ids, store, codec=None)
        for codec in ("raw", "exp4"):
            found = generate(model, ids, store=store, codec=codec, max_new_tokens=20).tolist()
            assert found == expected
        with pytest.raises(InvalidRequest, match="open the store with the same codec"):
            generate(model, ids, store=store, codec="int8")
    with store_of(model, codec="int8") as store:
        for _ in range(2):
            answer = generate(model, ids, store=store, codec="int8", max_new_tokens=4)
        assert answer.shape == (1, 304)
        assert reused(store) == 300 // SIZE * SIZE


# ---- another process ----------------------------------------------------------------------------


def answer_in_a_process(family: str, path: Path, ids: list[list[int]], out: Path) -> None:
    model = model_of(family)
    with store_of(model, path) as store:
        answer = generate(model, torch.tensor(ids), store=store, max_new_tokens=20)
        from_disk = store.stats().tokens_from_tier
    out.write_text(json.dumps({"answer": answer.tolist(), "from_disk": from_disk}))


def test_a_second_process_starts_where_the_first_one_was(tmp_path: Path) -> None:
    ids, _ = prompts(100)
    context = multiprocessing.get_context("spawn")
    found = []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        arguments = "mistral", tmp_path / "store", ids.tolist(), out
        process = context.Process(target=answer_in_a_process, args=arguments)
        process.start()
        process.join(240)
        assert process.exitcode == 0
        found.append(json.loads(out.read_text()))
    expected = model_of("mistral").generate(ids, max_new_tokens=20).tolist()
    assert [run["answer"] for run in found] == [expected, expected]
    assert [run["from_disk"] for run in found] == [0, 96]


def test_damage_on_disk_is_a_miss(tmp_path: Path) -> None:
    model, (ids, _) = model_of("llama"), prompts(100)
    with store_of(model, tmp_path) as store:
        expected, _ = both(model, ids, store)
    for segment in (tmp_path / "entries").iterdir():
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
    with store_of(model, tmp_path) as store:
        assert generate(model, ids, store=store, max_new_tokens=20).tolist() == expected
        assert reused(store) < 96
        before = reused(store)  # and what was missing has been stored again
        assert generate(model, ids, store=store, max_new_tokens=20).tolist() == expected
        assert reused(store) - before >= 96


def test_blocks_that_go_between_the_match_and_the_load_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("llama")
    ids, mask = prompts(90, 60)
    load = KVStore.load_prefix
    with store_of(model) as store:
        expected, _ = both(model, ids, store, attention_mask=mask)
        for left in (32, 16, 0):

            def less(
                self: KVStore, tokens: Any, *, out: Any, partial: bool, left: int = left
            ) -> int:
                filled = min(left, load(self, tokens, out=out, partial=partial))
                for x in out:
                    x[:, filled:] = float("nan")
                return filled

            monkeypatch.setattr(KVStore, "load_prefix", less)
            found = generate(model, ids, store=store, attention_mask=mask, max_new_tokens=20)
            assert found.tolist() == expected


# ---- whose blocks they are ----------------------------------------------------------------------


def test_a_fingerprint_is_the_same_in_every_process_and_tells_models_apart(tmp_path: Path) -> None:
    model = build("llama")
    name = fingerprint(model)
    assert name == fingerprint(model) == fingerprint(build("llama"))
    model.save_pretrained(tmp_path)
    assert fingerprint(type(model).from_pretrained(tmp_path).eval()) == name
    others = [
        build("llama", seed=1),
        build("llama", dtype="bfloat16"),
        build("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        build("llama", rms_norm_eps=1e-3),
        build("qwen3"),
    ]
    assert len({name, *map(fingerprint, others)}) == 6


def test_a_fingerprint_follows_the_weights_and_the_adapters() -> None:
    model = build("llama")
    names = [fingerprint(model)]
    weight = model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight.mul_(1.5)
    names.append(fingerprint(model))
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight * 2)
    names.append(fingerprint(model))
    layer = model.model.layers[0].self_attn.q_proj
    layer.active_adapters, layer.disable_adapters, layer.scaling = ["a"], False, {"a": 2.0}
    names.append(fingerprint(model))
    layer.scaling = {"a": 1.0}
    names.append(fingerprint(model))
    layer.disable_adapters = True
    names.append(fingerprint(model))
    assert len(set(names)) == 6


def test_strided_empty_and_absent_weights() -> None:
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.arange(12.0).view(3, 4).T)
    model.b = torch.nn.Parameter(torch.empty(0, 3))
    model.c = torch.nn.Parameter(torch.tensor(2.0))
    name = fingerprint(model)
    model.a = torch.nn.Parameter(torch.arange(12.0).view(3, 4).T.contiguous())
    assert fingerprint(model) == name
    model.d = torch.nn.Parameter(torch.empty(3, device="meta"))
    with pytest.raises(Unsupported, match="weight d is not in memory"):
        fingerprint(model)


def test_another_model_is_a_miss_and_a_warning(tmp_path: Path) -> None:
    one, other = model_of("llama"), model_of("llama", seed=1)
    ids, _ = prompts(70)
    with store_of(one, tmp_path) as store:
        generate(one, ids, store=store, max_new_tokens=2)
    with store_of(one, tmp_path) as store:  # the folder remembers
        expected = other.generate(ids, max_new_tokens=20).tolist()
        with pytest.warns(UserWarning, match="blocks of another model"):
            found = generate(other, ids, store=store, max_new_tokens=20).tolist()
        assert found == expected
        assert reused(store) == store.stats().saved == 0
        assert generate(one, ids, store=store, max_new_tokens=20).shape == (1, 90)
        assert reused(store) == 64


@pytest.mark.parametrize(
    "tag", [{"salt": b"other"}, {"tokenizer": "t"}, {"lora": "l"}, {"rope": {"theta": 2.0}}]
)
def test_a_store_with_other_tags_has_no_blocks_for_it(tmp_path: Path, tag: dict[str, Any]) -> None:
    model, (ids, _) = model_of("llama"), prompts(70)
    with store_of(model, tmp_path) as store:
        generate(model, ids, store=store, max_new_tokens=2)
    with store_of(model, tmp_path, **tag) as store:
        expected, found = both(model, ids, store)
        assert found == expected
        assert reused(store) == 0


# ---- where a store is of no use -----------------------------------------------------------------


def refusal(model: Any, store: KVStore, ids: torch.Tensor, **options: Any) -> str:
    """The warning with which ``generate`` does without the store, and the right answer."""
    options = {"max_new_tokens": 6} | options
    with pytest.warns(UserWarning, match="the store is not used") as caught:
        found = generate(model, ids, store=store, **options)
    assert torch.equal(found, model.generate(ids, **options))
    assert store.stats().saved == 0
    return str(caught[0].message)


@pytest.mark.parametrize(
    "change",
    [{"layers": 3}, {"kv_heads": 4}, {"head_dim": 8}, {"dtype": "bfloat16"}],
)
def test_a_layout_that_is_not_the_model_s_is_not_used(change: dict[str, Any]) -> None:
    model, (ids, _) = model_of("llama"), prompts(40)
    own: dict[str, Any] = {
        "layers": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "dtype": "float32",
        "block_tokens": SIZE,
    }
    assert layout_of(model, block_tokens=SIZE) == KVLayout(**own)
    with KVStore(KVLayout(**own | change), capacity_bytes="1MiB") as store:
        assert "the model needs KVLayout(layers=2" in refusal(model, store, ids)


def test_shapes_that_the_configuration_does_not_tell_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (ids, _) = model_of("llama"), prompts(40)
    wrong = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float32", block_tokens=SIZE)
    with KVStore(wrong, capacity_bytes="1MiB") as store:
        monkeypatch.setattr(
            "blatam_kv.integrations.transformers.generation.layout_of", lambda *_, **__: wrong
        )
        assert "layer 0 of 2 has 2 heads of 16 in torch.float32" in refusal(model, store, ids)


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("qwen3_next", {}, "keeps a state of its own"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "depend on the length of the whole prompt",
        ),
    ],
)
def test_models_whose_prefixes_mean_nothing_alone_are_named(
    family: str, changes: dict[str, Any], why: str
) -> None:
    model, (ids, _) = build(family, **changes), prompts(40)
    layout = KVLayout(layers=2, kv_heads=2, head_dim=16, dtype="float32", block_tokens=SIZE)
    with KVStore(layout, capacity_bytes="1MiB") as store:
        assert why in refusal(model, store, ids)


def test_shared_layers_are_stored_once() -> None:
    model, (ids, _) = model_of("gemma3n"), prompts(70)
    assert layout_of(model).layers == 2
    with store_of(model) as store:
        for _ in range(2):
            expected, found = both(model, ids, store, min_new_tokens=20)
            assert found == expected
        assert reused(store) >= 64


def test_weights_that_are_not_in_memory_cannot_be_told_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (ids, _) = model_of("llama"), prompts(40)

    def absent(model: Any) -> str:
        raise Unsupported("the weight w is not in memory")

    with store_of(model) as store:
        monkeypatch.setattr("blatam_kv.integrations.transformers.generation.fingerprint", absent)
        assert "the weight w is not in memory" in refusal(model, store, ids)


def test_a_model_in_training_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, _) = build("llama"), prompts(40)
    with store_of(model) as store:
        model.train()
        assert "training mode" in refusal(model, store, ids)


def test_what_tokens_do_not_tell_keeps_the_store_out() -> None:
    model, (ids, _) = model_of("llama"), prompts(40)
    holed = torch.ones_like(ids)
    holed[0, 20] = 0
    with store_of(model) as store:
        for options, why in (
            ({"attention_mask": holed}, "hides tokens"),
            ({"position_ids": torch.arange(1, 41)[None]}, "position_ids may change"),
            ({"use_cache": False}, "use_cache is False"),
            ({"cache_implementation": "static"}, "brings a cache of its own"),
            ({"assistant_model": model_of("llama", seed=1)}, "cannot start from a part"),
            ({"prompt_lookup_num_tokens": 3}, "cannot start from a part"),
        ):
            assert why in refusal(model, store, ids, **options)
        embeds = model.get_input_embeddings()(ids).detach()
        with pytest.warns(UserWarning, match="the store is not used"):
            found = generate(model, store=store, inputs_embeds=embeds, max_new_tokens=4)
        assert torch.equal(found, model.generate(inputs_embeds=embeds, max_new_tokens=4))


def test_bad_input_is_named() -> None:
    model = model_of("llama")
    ids, _ = prompts(20)
    with store_of(model) as store:
        used = KVCache(model.config)
        used.update(torch.zeros(1, 2, 3, 16), torch.zeros(1, 2, 3, 16), 0)
        for cache, rows in (
            (used, rows_of(ids)),
            (KVCache(model.config), []),
            (KVCache(model.config), rows_of(ids) + rows_of(ids[:, 1:])),
        ):
            with pytest.raises(InvalidRequest):
                restore(cache, store, rows)
        for wrong in (ids[0], ids.float(), ids[:, :0]):
            with pytest.raises(InvalidRequest, match="whole numbers"):
                generate(model, wrong, store=store)
        with pytest.raises(InvalidRequest, match="attention_mask is"):
            generate(model, ids, store=store, attention_mask=torch.ones(1, 3))
    assert "the store is closed" in refusal(model, store, ids)


def test_an_answer_survives_a_store_that_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, _) = model_of("llama"), prompts(40)

    def fail(*_: Any) -> int:
        raise MemoryError("none left")

    with store_of(model) as store:
        monkeypatch.setattr(KVStore, "save_prefix", fail)
        assert "none left" in refusal(model, store, ids)


def test_a_cache_that_forgot_or_rounded_does_not_fill_a_store() -> None:
    model, (ids, _) = model_of("mistral"), prompts(60)
    with store_of(model) as store, torch.inference_mode():
        forgetful = KVCache(model.config)
        model(ids, cache=forgetful)
        with pytest.raises(Unsupported, match="not held any more"):
            keep(forgetful, store, rows_of(ids))
        rounded = KVCache(model.config, codec="int8")
        model(ids, cache=rounded)
        with pytest.raises(Unsupported, match="open the store with the same codec"):
            keep(rounded, store, rows_of(ids))
        assert store.stats().saved == 0


def test_prompts_that_part_within_a_block_share_what_they_can() -> None:
    model, (ids, _) = model_of("qwen3"), prompts(70)
    other = ids.clone()
    other[0, 39:] = ids[0, 38:-1]
    with store_of(model) as store:
        generate(model, ids, store=store, max_new_tokens=2)
        for prompt, reused in ((ids, 64), (ids[:, :64], 63), (ids[:, :20], 19), (other, 39)):
            cache = KVCache(model.config, keep_past=True)
            assert restore(cache, store, rows_of(prompt)) == reused
            assert cache.reused == (reused,)
            expected, found = both(model, prompt, store)
            assert found == expected
        assert restore(KVCache(model.config), store, rows_of(other), multiple=24) == 48


def test_a_store_filled_by_hand_serves_a_model_run_by_hand() -> None:
    model, (ids, _) = model_of("gemma3"), prompts(60)
    rows = rows_of(ids)
    with store_of(model) as store, torch.inference_mode():
        store.bind(fingerprint(model))
        first = KVCache(model.config, keep_past=True)
        wanted = model(ids, cache=first).logits[:, -1]
        assert keep(first, store, rows) == 48
        second = KVCache(model.config, keep_past=True)
        assert restore(second, store, rows) == 48
        assert second.reused == (48,)
        logits = model(ids[:, 48:], cache=second).logits[:, -1]
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_less(rows[0].tokens, VOCAB)


def test_no_warning_where_there_is_nothing_to_warn_of() -> None:
    model, (ids, _) = model_of("llama"), prompts(40)
    with store_of(model) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            generate(model, ids, store=store, max_new_tokens=2)
