"""Messages to token ids and token ids to text, with the tokenizer of a transformers model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blatam_kv.errors import InvalidRequest
from blatam_kv.truthgpt.protocol import Message, Tokens

ROLES = ("system", "user", "assistant")


class Wording:
    """A tokenizer with its chat template. Safe from any thread, as fast tokenizers are.

    tokenizer: of transformers. Without a template messages are joined by empty lines, as a model
    that was never taught to talk reads them best.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        marks = {str(token) for token in tokenizer.all_special_tokens}
        marks |= {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        longest_first = sorted((mark for mark in marks if len(mark) > 1), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def identity(self) -> list[bytes]:
        """What decides how messages become tokens, for a digest."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        words = backend.to_str() if backend is not None else repr(vocabulary)
        return [words.encode(), str(self._tokenizer.chat_template or "").encode()]

    @property
    def end(self) -> int | None:
        """The token that ends an answer, if the tokenizer has one."""
        token: int | None = self._tokenizer.eos_token_id
        return token

    def encode(self, messages: Sequence[Message], *, begun: str = "") -> Tokens:
        """The prompt, int32 ``[tokens]``, up to where the answer begins or, with ``begun``, goes on.

        Text that spells one of the template's marks (``<|im_end|>``) is taken apart by a space, so
        that nobody can end a turn from within. A template that knows no system message gets it at
        the head of the first user's. Raises InvalidRequest for no messages, unknown roles, or an
        order of roles that the template refuses.
        """
        if not messages:
            raise InvalidRequest("messages is empty; send at least one", field="messages")
        turns = []
        for message in messages:
            if message.role not in ROLES:
                raise InvalidRequest(
                    f"role {message.role!r} is not one of {', '.join(ROLES)}", field="messages"
                )
            turns.append({"role": message.role, "content": self._defused(message.content)})
        if not self._tokenizer.chat_template:
            text = "".join(turn["content"] + "\n\n" for turn in turns)
            ids = self._tokenizer(text).input_ids
        else:
            ids = self._templated(turns)
        if begun:
            ids = [*ids, *self._tokenizer(self._defused(begun), add_special_tokens=False).input_ids]
        return np.asarray(ids, np.int32)

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say, marks left out."""
        said: str = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return said

    def _defused(self, content: str) -> str:
        return self._marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", content)

    def _templated(self, turns: list[dict[str, str]]) -> list[int]:
        from jinja2 import TemplateError

        refused: Exception | None = None
        for attempt in (turns, _without_system(turns)):
            try:
                ids: list[int] = self._tokenizer.apply_chat_template(
                    attempt, add_generation_prompt=True, tokenize=True, return_dict=False
                )
                return ids
            except TemplateError as error:
                refused = refused or error
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {refused}", field="messages"
        ) from refused


class Speech:
    """Tokens in, text out as soon as it is certain: never half a character.

    text: what a list of tokens says. A token is decoded beside those before it, because some
    tokenizers write a space only between two of them.
    """

    def __init__(self, text: Callable[[Sequence[int]], str]) -> None:
        self._text = text
        self._tokens: list[int] = []
        self._begin = self._said = 0  # tokens before _said are out; decoding begins at _begin

    def push(self, token: int) -> str:
        """The text that this token makes certain."""
        self._tokens.append(token)
        more = self._more()
        if more.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._begin, self._said = self._said, len(self._tokens)
        return more

    def finish(self) -> str:
        """The rest; bytes of an unfinished character become U+FFFD."""
        more = self._more()
        self._begin = self._said = len(self._tokens)
        return more

    def _more(self) -> str:
        before = self._text(self._tokens[self._begin : self._said])
        return self._text(self._tokens[self._begin :])[len(before) :]


def _without_system(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same with system messages at the head of the user's turn that follows them."""
    told: list[str] = []
    rest = []
    for turn in turns:
        if turn["role"] == "system":
            told.append(turn["content"])
        elif turn["role"] == "user" and told:
            rest.append({"role": "user", "content": "\n\n".join([*told, turn["content"]])})
            told = []
        else:
            rest.append(turn)
    return rest + [{"role": "user", "content": content} for content in told]
