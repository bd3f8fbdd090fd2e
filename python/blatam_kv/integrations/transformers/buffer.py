"""Memory for one layer's keys, or its values, that grows at the end and is never copied a token at a time."""

from __future__ import annotations

import torch

# Room for so many tokens more, at least, whenever memory is taken.
_LEAST_SPARE = 64


class Buffer:
    """Tokens ``[rows, heads, tokens, dim]`` of one dtype on one device, with room for more behind them.

    Appending costs what is appended: when the room is used up, half as much again is taken, so a
    token is copied three times on average however long the sequence becomes. What ``held`` returned
    shows the tokens of that moment until tokens are cropped and others appended in their place.
    Not safe for use from several threads at once.
    """

    __slots__ = ("_begin", "_end", "_room")

    def __init__(self, room: torch.Tensor, tokens: int) -> None:
        """room: whose first ``tokens`` tokens are held; it belongs to the buffer from now on."""
        self._room = room
        self._begin, self._end = 0, tokens

    @classmethod
    def like(cls, x: torch.Tensor, *, reserve: int) -> Buffer:
        """An empty one for tokens such as these, with room for them and for ``reserve`` at least."""
        return cls(_empty(x, x.shape[0], max(reserve, _roomy(x.shape[2]))), 0)

    def __len__(self) -> int:
        """Tokens held of every row."""
        return self._end - self._begin

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, heads, dim)."""
        rows, heads, _, dim = self._room.shape
        return rows, heads, dim

    @property
    def nbytes(self) -> int:
        """Bytes taken, the room included."""
        return self._room.numel() * self._room.element_size()

    def accepts(self, x: torch.Tensor) -> bool:
        """Whether these tokens may be appended."""
        rows, heads, _, dim = x.shape
        return (rows, heads, dim) == self.shape and x.dtype == self._room.dtype

    def held(self, last: int | None = None) -> torch.Tensor:
        """The tokens, or the last so many of them: a view, no copy."""
        begin = self._begin if last is None else max(self._begin, self._end - last)
        return self._room[:, :, begin : self._end]

    def append(self, x: torch.Tensor) -> None:
        """Add tokens behind the others. x: as ``accepts`` wants it."""
        more = x.shape[2]
        if self._end + more > self._room.shape[2]:
            self._move(_roomy(len(self) + more))
        self._room[:, :, self._end : self._end + more].copy_(x)
        self._end += more

    def keep_last(self, tokens: int) -> None:
        """Forget all but the last so many."""
        self._begin = max(self._begin, self._end - tokens)
        if self._room.shape[2] > 4 * _roomy(tokens):  # a long prompt went through a short window
            self._move(_roomy(len(self)))

    def crop(self, tokens: int) -> None:
        """Forget the last so many, at most as many as there are."""
        self._end -= tokens

    def take_rows(self, rows: torch.Tensor) -> None:
        """Have these rows instead, each as often as it is named. rows: int64, one dimension."""
        self._move(self._room.shape[2] - self._begin, rows.to(self._room.device))

    def to(self, device: torch.device) -> None:
        """Live on this device from now on."""
        self._room = self._room.to(device)

    def _move(self, room: int, rows: torch.Tensor | None = None) -> None:
        """Go to new memory with room for so many tokens."""
        held = self.held()
        if rows is not None:
            held = held.index_select(0, rows)
        self._room = _empty(held, held.shape[0], room)
        self._begin, self._end = 0, held.shape[2]
        self._room[:, :, : self._end].copy_(held)


def _roomy(tokens: int) -> int:
    return tokens + max(tokens // 2, _LEAST_SPARE)


def _empty(x: torch.Tensor, rows: int, tokens: int) -> torch.Tensor:
    # A tensor made in inference mode could not be written to after it.
    with torch.inference_mode(False):
        return torch.empty((rows, x.shape[1], tokens, x.shape[3]), dtype=x.dtype, device=x.device)
