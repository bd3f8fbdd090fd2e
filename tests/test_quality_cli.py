"""``blatam-kv quality`` prints, draws and refuses as it says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blatam_kv import codecs
from blatam_kv.cli import main
from blatam_kv.cli.samples import Array, embedded


def test_the_default_table_has_every_codec_on_both_samples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "codecs.png"
    assert main(["quality", "--json", "--plot", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["codec"] for row in rows] == 2 * list(codecs.NAMES)
    assert {row["sample"] for row in rows} == {"mini", "outliers"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    by_name = {row["codec"]: row for row in rows if row["sample"] == "mini"}
    assert by_name["raw"]["perplexity_change"] == 0
    assert abs(by_name["int8"]["perplexity_change"]) < 0.002
    assert all(row["quantize"] > 0 and row["dequantize"] > 0 for row in rows)
    assert all(row["perplexity_change"] is None for row in rows if row["sample"] == "outliers")


def test_a_file_is_measured_layer_by_layer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    arrays = {
        name: random.standard_normal((3, 64, 2, 64)).astype(np.float16)
        for name in ("keys", "values", "queries")
    }
    np.savez(tmp_path / "three.npz", allow_pickle=False, **arrays)
    np.savez(tmp_path / "one.npz", allow_pickle=False, **{n: x[0] for n, x in arrays.items()})
    for name, about in (("three.npz", "3 layers of (64, 2, 64)"), ("one.npz", "1 layers")):
        assert main(["quality", "--kv", str(tmp_path / name), "--codec", "int4"]) == 0
        out = capsys.readouterr().out
        assert about in out
        assert [line.split()[0] for line in out.splitlines()[2:] if line] == ["int4"]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"keys": np.zeros((2, 2, 8), np.float16)}, "keys and values"),
        (
            {"keys": np.zeros((2, 2, 8), np.float16), "values": np.zeros((2, 2, 8), np.float32)},
            "differ in dimensions or dtype",
        ),
        (
            {"keys": np.zeros((2, 8), np.float16), "values": np.zeros((2, 8), np.float16)},
            r"\[tokens, heads, head_dim\]",
        ),
        ({name: np.zeros((0, 2, 2, 8), np.float16) for name in ("keys", "values")}, "no layers"),
    ],
)
def test_a_file_that_holds_something_else_is_named(
    arrays: dict[str, Array], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, allow_pickle=False, **arrays)
    assert main(["quality", "--kv", str(path)]) == 2
    assert re.search(says, capsys.readouterr().err)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    for options, says in (
        (["--kv", str(tmp_path / "none.npz")], "cannot read"),
        (["--kv", str(tmp_path / "text.npz")], "cannot read"),
        (["--model", str(tmp_path / "none")], "no folder"),
        (["--plot", str(tmp_path / "picture.exe")], "must end in one of"),
        (["--plot", str(tmp_path / "none" / "picture.png")], "no folder"),
    ):
        assert main(["quality", *options]) == 2
        assert says in capsys.readouterr().err


def test_a_model_without_transformers_says_which_extra_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["quality", "--model", str(tmp_path)]) == 1
    assert "blatam-kv[local]" in capsys.readouterr().err


def make_llama(folder: Path) -> None:
    """A Llama of two layers with weights by chance, and a tokenizer learned from a sentence."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["A cache keeps what was expensive to compute."],
        trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False),
    )
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_transformers_model_is_measured_layer_by_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_llama(tmp_path)
    options = ["--codec", "raw", "--codec", "int8", "--codec", "tq3"]
    assert main(["quality", "--json", "--model", str(tmp_path), *options]) == 0
    raw, int8, tq3 = json.loads(capsys.readouterr().out)["rows"]
    assert raw["key_error"] == raw["attention_error"] == raw["perplexity_change"] == 0
    assert 0 < int8["attention_error"] < tq3["attention_error"] < 1
    assert int8["perplexity_change"] is not None


def test_the_embedded_model_reads_worse_what_is_kept_worse() -> None:
    sample = embedded()
    assert sample.loss is not None
    losses = [sample.loss(codec) for codec in (None, "raw", "int8", "int4_kc", "tq3")]
    assert losses[0] == losses[1]
    assert abs(losses[2] - losses[1]) < 0.01
    assert losses[4] > losses[3] > losses[1]
