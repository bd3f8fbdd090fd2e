"""How long a model takes to read a prompt, seen from outside of ``model.generate``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def prefill_told(model: Any, told: Callable[[int, float], object], *, least: int) -> Iterator[None]:
    """For the body, tell how many tokens the model's first call in this thread reads, of all rows, and
    how many seconds that takes. Where prompts are read in pieces it is the first piece. least: fewer
    tokens say nothing of the next ones, and are not told."""
    mine, began = threading.get_ident(), 0.0

    def before(module: Any, words: Any, options: Any) -> None:
        nonlocal began
        if threading.get_ident() == mine and not began:
            _finish(model)
            began = time.perf_counter()

    def after(module: Any, words: Any, options: Any, result: Any) -> None:
        if threading.get_ident() != mine:
            return
        for hook in hooks:  # the first call is all that is wanted
            hook.remove()
        tokens = _tokens(words, options)
        if tokens >= least:
            _finish(model)
            told(tokens, time.perf_counter() - began)

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tokens(words: tuple[Any, ...], options: dict[str, Any]) -> int:
    """How many the call is about."""
    ids = options.get("input_ids", words[0] if words else None)
    if ids is None:
        embedded = options.get("inputs_embeds")
        return 0 if embedded is None else int(embedded.shape[0] * embedded.shape[1])
    return int(ids.numel())


def _finish(model: Any) -> None:
    """Wait for what was queued on a device: else only the queueing is timed."""
    device = torch.device(model.device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
