"""docs/TRANSFORMERS.md keeps its word: its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers_models import model_of, prompts

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "TRANSFORMERS.md").read_text("utf-8")


def test_the_examples_run_and_say_the_same(tmp_path: Path) -> None:
    model, (ids, _) = model_of("llama"), prompts(150)
    names: dict[str, Any] = {"model": model, "ids": ids, "folder": tmp_path}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    expected = model.generate(ids, max_new_tokens=20)
    exec(examples[0], names)
    assert torch.equal(names["first"], expected)
    assert torch.equal(names["again"], expected)
    assert names["reused"] >= 128
    exec(examples[1], names)
    assert names["answer"].shape == expected.shape
