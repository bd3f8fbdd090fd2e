"""A checked request, and what it comes to for a caller, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from blatam_kv.bul.caller import Caller
from blatam_kv.truthgpt.protocol import TruthGPT

R = TypeVar("R")
W = TypeVar("W")


class Wanted(Generic[R, W]):
    """A request, remembered with its order as long as model and caller stay the same.

    place: makes the order; its digests follow from the request, the model and the caller's salt.
    ready: for who answers, what the last answer looked like as bytes, and of what it was made.
    """

    __slots__ = ("_made", "_place", "ready", "request")

    def __init__(self, request: R, place: Callable[[R, TruthGPT, Caller], W]) -> None:
        self.request = request
        self._place = place
        self._made: tuple[str, bytes, str, W] | None = None
        self.ready: tuple[object, bytes] | None = None

    def order(self, model: TruthGPT, caller: Caller) -> W:
        """What the request comes to for this caller."""
        made, fingerprint = self._made, model.fingerprint
        if made is None or made[:3] != (fingerprint, caller.salt, caller.tenant):
            order = self._place(self.request, model, caller)
            self._made = made = (fingerprint, caller.salt, caller.tenant, order)
        return made[3]
