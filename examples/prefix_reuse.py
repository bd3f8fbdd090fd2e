"""Two processes, one document: the second one does not read again what the first one has read.

    python examples/prefix_reuse.py                      a model made from a configuration
    python examples/prefix_reuse.py --model DIR          your own, any causal model of transformers

Both ask the model about the same document, each with another question. Keys and values of the
document stay in a folder; the second process finds them there, says how many tokens it did not have
to compute and how much sooner its first word came, and checks that every word is the same as without
the folder. Needs `pip install 'blatam-kv[local]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DOCUMENT = (
    "A cache keeps what was expensive to compute close to where it will be needed again. A language "
    "model computes keys and values for every token that it reads, and reads the same beginning of "
    "a prompt many times: instructions, a document, the history of a conversation. "
)
QUESTIONS = ("What does a cache keep?", "Who reads the beginning of a prompt many times?")


def load_model(folder: Path | None, size: int) -> Any:
    """The model in a folder, or one of weights by chance: it says nothing, but as fast as others."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    transformers.logging.disable_progress_bar()
    loader: Any = AutoModelForCausalLM
    if folder is not None:
        return loader.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=64 * size,
        intermediate_size=176 * size,
        num_hidden_layers=size,
        num_attention_heads=size,
        num_key_value_heads=max(1, size // 2),
        head_dim=64,
        max_position_embeddings=8192,
        initializer_range=0.1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def make_prompt(folder: Path | None, number: int, tokens: int, model: Any) -> Any:
    """The document, about ``tokens`` long, and one of the questions, as token ids [1, tokens]."""
    import torch
    from transformers import AutoTokenizer

    if folder is not None:
        loader: Any = AutoTokenizer
        tokenizer = loader.from_pretrained(folder, local_files_only=True)
        once = len(tokenizer(DOCUMENT).input_ids)
        text = DOCUMENT * max(1, tokens // once) + QUESTIONS[number]
        return tokenizer(text, return_tensors="pt").input_ids
    chance = torch.Generator().manual_seed(1)
    document = torch.randint(8192, (1, tokens), generator=chance)
    question = torch.randint(8192, (1, 24), generator=chance.manual_seed(2 + number))
    return torch.cat([document, question], dim=1)


class FirstToken:
    """A streamer that only looks at the clock: ``generate`` hands it the prompt, then each token."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def put(self, value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to say."""

    @property
    def seconds(self) -> float:
        return self.times[2] - self.times[0]


def ask(options: argparse.Namespace) -> None:
    """One of the two processes; prints what it saw as a line of JSON."""
    from blatam_kv import KVStore
    from blatam_kv.integrations.transformers import layout_of
    from blatam_kv.truthgpt.local import generate

    model = load_model(options.model, options.size)
    prompt = make_prompt(options.model, options.ask, options.tokens, model)
    settings = {"max_new_tokens": options.new_tokens, "do_sample": False}
    model.generate(prompt[:, :8], **settings)  # the first pass of a process warms it up

    with KVStore(layout_of(model), capacity_bytes="2GiB", path=options.store) as store:
        clock = FirstToken()
        answer = generate(model, prompt, store=store, streamer=clock, **settings)
        reused = store.stats().tokens_from_memory + store.stats().tokens_from_tier
        stored = store.match_prefix(prompt[0])
    plain = FirstToken()
    expected = model.generate(prompt, streamer=plain, **settings)
    report = {
        "pid": os.getpid(),
        "prompt_tokens": prompt.shape[1],
        "reused_tokens": min(reused, prompt.shape[1] - 1),
        "stored_tokens": stored,
        "seconds": clock.seconds,
        "seconds_without": plain.seconds,
        "same_tokens": bool((answer == expected).all()),
    }
    print(json.dumps(report))


def main() -> int:
    parser = argparse.ArgumentParser(description="prefix reuse between two processes")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a transformers model")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the blocks here")
    parser.add_argument("--tokens", type=int, default=1024, help="length of the document (1024)")
    parser.add_argument("--new-tokens", type=int, default=16, help="length of the answers (16)")
    parser.add_argument("--size", type=int, default=8, help="layers of the model made here (8)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--ask", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask is not None:
        ask(options)
        return 0
    reports = []
    with tempfile.TemporaryDirectory(prefix="prefix-reuse-") as folder:
        store = options.store or Path(folder)
        for number in range(2):
            command = [sys.executable, __file__, "--ask", str(number), "--store", str(store)]
            command += ["--tokens", str(options.tokens), "--new-tokens", str(options.new_tokens)]
            command += ["--size", str(options.size)]
            command += ["--model", str(options.model)] if options.model else []
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            reports.append(json.loads(done.stdout.splitlines()[-1]))
    if options.json:
        print(json.dumps(reports))
    else:
        for number, report in enumerate(reports, start=1):
            print(
                f"process {number} (pid {report['pid']}): {report['prompt_tokens']:,} prompt tokens, "
                f"{report['reused_tokens']:,} reused; first token after {report['seconds']:.3f} s"
            )
        second = reports[1]
        saved = second["seconds_without"] - second["seconds"]
        print(
            f"without the store it comes after {second['seconds_without']:.3f} s: {saved:.3f} s saved"
            f" ({second['seconds_without'] / second['seconds']:.1f} times sooner), the same tokens"
            if second["same_tokens"]
            else "the tokens differ from those without the store"
        )
    return 0 if all(report["same_tokens"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
