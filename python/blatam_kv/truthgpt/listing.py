"""What an endpoint says about its models: their names, and what identifies one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from blatam_kv._core import framed_digest
from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.endpoint import Endpoint, EndpointRefused, MalformedAnswer

# For an endpoint that does not say. Small, because one that is told too much (Ollama) drops the
# beginning of the prompt without a word.
DEFAULT_CONTEXT_TOKENS = 4096

# vLLM makes up ``created`` and ``permission`` anew at each listing, so they identify nothing.
IDENTIFYING = ("id", "root", "parent", "owned_by", "max_model_len", "context_length", "meta")


@dataclass(frozen=True, slots=True)
class Listing:
    """names: of all models. entry: canonical JSON of what identifies ours, "" if not listed."""

    names: tuple[str, ...]
    entry: str
    context_tokens: int | None

    def fingerprint(self, base_url: str, model: str) -> str:
        """BLAKE2b-256 in hex over where the model is, its name and its entry."""
        fields = [part.encode() for part in (base_url, model, self.entry)]
        return framed_digest(fields, person=b"blatamkv-endp-v1").hex()


def read_listing(endpoint: Endpoint, model: str) -> Listing:
    """Ask ``/models``; an endpoint without it gives an empty listing. Raises ModelError."""
    try:
        answer = endpoint.ask("GET", f"{endpoint.base_url}/models")
    except EndpointRefused as error:
        if error.status not in (404, 405, 501):
            raise
        return Listing((), "", None)
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise MalformedAnswer(f"{endpoint.base_url}/models is not a list of models")
    # JSON of any shape, hence Any; whatever is not an object with a name is passed over.
    named: dict[str, dict[str, Any]] = {
        entry["id"]: entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    ours = named.get(model)
    if ours is None:
        return Listing(tuple(named), "", None)
    known = {name: ours[name] for name in IDENTIFYING if ours.get(name) is not None}
    return Listing(
        tuple(named),
        json.dumps(known, sort_keys=True, separators=(",", ":")),
        _context_of(ours, endpoint),
    )


def _context_of(entry: dict[str, Any], endpoint: Endpoint) -> int | None:
    """vLLM and SGLang say max_model_len, OpenRouter context_length, llama.cpp only in /props."""
    for name in ("max_model_len", "context_length"):
        if _is_count(entry.get(name)):
            return int(entry[name])
    if entry.get("owned_by") != "llamacpp":
        return None
    try:
        props = endpoint.ask("GET", f"{endpoint.root_url}/props")
    except ModelError:
        return None
    settings = props.get("default_generation_settings") if isinstance(props, dict) else None
    size = settings.get("n_ctx") if isinstance(settings, dict) else None
    return size if _is_count(size) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
