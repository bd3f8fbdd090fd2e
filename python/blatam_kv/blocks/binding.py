"""What a store's tags are from the moment on at which somebody says which model uses it."""

from __future__ import annotations

import threading
from dataclasses import replace

from blatam_kv.blocks.below import Below
from blatam_kv.blocks.tags import Tags


class Binding:
    """The tags of a store, or of a tenant of it, with the model that it is bound to, at the opening or
    later. Safe from any thread.

    below: where the folder says what it is bound to. owner: whose model a tenant's is too.
    """

    def __init__(self, tags: Tags, below: Below, owner: Binding | None = None) -> None:
        self._tags = tags if tags.model else tags.bound_to(below.model)
        self._below, self._owner = below, owner
        self._lock = threading.Lock()  # guards _tags
        if self._tags.model:
            below.far.begin()

    def tenant(self, salt: bytes) -> Binding:
        """The same for another salt."""
        return Binding(replace(self._tags, salt=salt), self._below, self)

    @property
    def tags(self) -> Tags:
        """As they are now."""
        if not self._tags.model:
            model = self._owner.tags.model if self._owner is not None else self._below.model
            if model:
                self._bind(model)
        return self._tags

    def bind(self, model: str, codec: str) -> str:
        """Bind to this model what is bound to none; returns the one that it is bound to."""
        if self._owner is not None:
            return self._owner.bind(model, codec)
        if self._bind(model):
            self._below.describe(self._tags.layout, codec, model)
        return self._tags.model

    def _bind(self, model: str) -> bool:
        with self._lock:
            if self._tags.model:
                return False
            self._tags = self._tags.bound_to(model)
            self._below.far.begin()
            return True
