"""The weights file: what the shipped one holds, and that no damaged one is ever run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mini_models import TINY, noise, write, write_tiny

from blatam_kv import truthgpt
from blatam_kv.errors import ConfigError, ModelError
from blatam_kv.truthgpt.mini import WEIGHTS, Mini
from blatam_kv.truthgpt.weights import load_weights


def test_shipped_model_is_as_small_as_promised() -> None:
    weights = load_weights(WEIGHTS)
    assert weights.parameters <= 3_800_000
    assert WEIGHTS.stat().st_size < 2 * weights.parameters + 64_000  # fp16, and the tokenizer
    assert weights.shape.head_dim == 64
    assert weights.shape.kv_heads < weights.shape.heads
    assert weights.shape.context >= 4096


def test_parameters_are_the_numbers_in_the_tensors(tmp_path: Path) -> None:
    weights = load_weights(write_tiny(tmp_path / "m"))
    arrays = [weights.embedding, weights.norm]
    for layer in weights.layers:
        arrays += [layer.attention_norm, layer.query_key_value, layer.attention_out]
        arrays += [layer.feed_norm, layer.gate_up, layer.feed_out]
    assert weights.parameters == sum(math.prod(array.shape) for array in arrays)


def test_mini_is_what_load_gives() -> None:
    model = truthgpt.load()
    assert model.model_id == "truthgpt-mini"
    assert isinstance(model, truthgpt.TruthGPT)
    assert isinstance(model, truthgpt.PrefixModel)
    assert model.context_tokens == 4096
    assert len(bytes.fromhex(model.fingerprint)) == 32


def test_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"'maxi'.*mini"):
        truthgpt.load("maxi")


def test_fingerprint_follows_the_file(tmp_path: Path) -> None:
    first = Mini(weights=write_tiny(tmp_path / "a", seed=1)).fingerprint
    assert Mini(weights=write_tiny(tmp_path / "b", seed=1)).fingerprint == first
    assert Mini(weights=write_tiny(tmp_path / "c", seed=2)).fingerprint != first


def refused(path: Path) -> str:
    """What ModelError says of this file, which it must name, with what to do about it."""
    with pytest.raises(ModelError) as caught:
        _ = Mini(weights=path).fingerprint
    message = str(caught.value)
    assert str(path) in message
    assert "install blatam-kv again" in message
    return message


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.safetensors")
    assert "directory" in refused(tmp_path)


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write_tiny(tmp_path_factory.mktemp("flip") / "m")
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    # Half of the flips in the header, which is the smaller part.
    end = data.draw(st.sampled_from((header, len(content))))
    at = data.draw(st.integers(0, end - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_noticed(tmp_path: Path, part: float) -> None:
    path = write_tiny(tmp_path / "m")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("# Not weights\n")
    refused(path)
    assert "format is 'other/1'" in refused(write(path, noise(TINY), format="other/1"))


def test_tensors_that_are_not_the_shape_are_refused(tmp_path: Path) -> None:
    tensors = noise(TINY)
    del tensors["model.norm.weight"]
    assert "model.norm.weight" in refused(write(tmp_path / "a", tensors))
    tensors = noise(replace(TINY, hidden=40))
    assert "expected (48, 32)" in refused(write(tmp_path / "b", tensors))
    tensors = noise(TINY)
    tensors["model.norm.weight"][3] = np.inf
    assert "not finite" in refused(write(tmp_path / "c", tensors))


@pytest.mark.parametrize(
    "change",
    [
        {"vocab": 262},
        {"context": 100},
        {"head_dim": 15},
        {"kv_heads": 3},
        {"layers": 0},
        {"width": 10**9},
        {"hidden": 48.0},
        {"rope_theta": "much"},
        {"rope_theta": float("nan")},
    ],
)
def test_an_impossible_shape_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    refused(write(tmp_path / "m", noise(TINY), shape=json.dumps({**asdict(TINY), **change})))


@pytest.mark.parametrize("shape", ["", "[]", "{}", "null"])
def test_an_unreadable_shape_is_refused(tmp_path: Path, shape: str) -> None:
    refused(write(tmp_path / "m", noise(TINY), shape=shape))


@pytest.mark.parametrize("merges", ["", "[1]", "[[1]]", "[[1, 999]]", "[[1, -1]]", "[[1, 2]]"])
def test_impossible_merges_are_refused(tmp_path: Path, merges: str) -> None:
    refused(write(tmp_path / "m", noise(TINY), merges=merges))
