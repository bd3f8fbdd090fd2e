"""Small transformers models of several families, made from a configuration, and prompts for them."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

# One thread: two that wait for each other on a busy machine are slower than one.
torch.set_num_threads(1)

VOCAB = 96
PAD = 0
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    # Large weights, so that what is said next depends on what was said long ago.
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "pad_token_id": PAD,
}
# What each family has that the others have not.
FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gemma3n",
    "qwen3_next",
)
# Those of which a store can hold prefixes; the others say why not.
STORED = FAMILIES[:7]


@functools.cache
def model_of(family: str, *, seed: int = 0, dtype: str = "float32") -> Any:
    """A model with weights by chance, ready to generate. The same object for the same arguments."""
    return build(family, seed=seed, dtype=dtype)


def build(family: str, *, seed: int = 0, dtype: str = "float32", **changes: Any) -> Any:
    """A new one; changes: to its configuration."""
    import transformers

    transformers.logging.set_verbosity_error()
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", {}),
        "mistral": ("Mistral", {"sliding_window": 24}),
        "qwen2": (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
        ),
        "qwen3": ("Qwen3", {"num_key_value_heads": 1}),
        "gemma2": (
            "Gemma2",
            {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        "gemma3": (
            "Gemma3Text",
            {
                "sliding_window": 20,
                "num_hidden_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
        ),
        "gpt2": ("GPT2", {}),
        "gemma3n": (
            "Gemma3nText",
            {
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "sliding_window": 20,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": VOCAB,
                "laurel_rank": 4,
                "altup_num_inputs": 2,
                "activation_sparsity_pattern": [0.0] * 4,
            },
        ),
        "qwen3_next": (
            "Qwen3Next",
            {
                "num_hidden_layers": 2,
                "layer_types": ["linear_attention", "full_attention"],
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "moe_intermediate_size": 16,
                "shared_expert_intermediate_size": 16,
            },
        ),
    }
    name, own = made[family]
    options = _COMMON | own | changes
    if family == "gpt2":
        options = {
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            **{key: options[key] for key in ("initializer_range", "bos_token_id", "eos_token_id")},
            "pad_token_id": PAD,
            **changes,
        }
    config = getattr(transformers, f"{name}Config")(**options)
    head = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma3nText": "Gemma3nForCausalLM"}
    class_name = head.get(name, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, class_name)(config)
    return model.to(getattr(torch, dtype)).eval()


def prompts(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts by chance, padded on the left to the longest. All begin alike."""
    random = torch.Generator().manual_seed(seed)
    most = max(lengths)
    text = torch.randint(3, VOCAB, (most,), generator=random)
    ids = torch.full((len(lengths), most), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, most - length :] = text[:length]
        mask[row, most - length :] = 1
    return ids, mask


# A template with marks of its own, as chat models have them.
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# One that takes turns of user and assistant only.
STRICT = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('only users begin') }}{% endif %}"
    + TEMPLATE
)


def save_model(folder: Any, family: str = "llama", *, template: str | None = TEMPLATE) -> Any:
    """Write a model with a tokenizer of bytes into a folder, as transformers reads them; returns the
    model. Its largest context is 512 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["A plan for a bakery, with a plan for its customers."],
        trainers.BpeTrainer(
            vocab_size=290, initial_alphabet=alphabet, special_tokens=marks, show_progress=False
        ),
    )
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=tokenizer,
        bos_token=marks[0],
        eos_token=marks[1],
        additional_special_tokens=marks[2:],
        chat_template=template,
    ).save_pretrained(folder)
    model = build(family, vocab_size=290, eos_token_id=1, bos_token_id=0, pad_token_id=None)
    model.save_pretrained(folder)
    return model
