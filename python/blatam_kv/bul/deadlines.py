"""When tasks are to have ended, the earliest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping


class Deadlines:
    """Moments of tasks that wait. Its owner's lock guards it, and the owner's map of what waits.

    waiting: by task. Who ends before its moment leaves that behind; it goes when too many have.
    """

    def __init__(self, waiting: Mapping[str, object]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, str, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, moment: float, task_id: str, tenant: str) -> None:
        """A task is to end at a moment of the monotonic clock."""
        if len(self._heap) > 64 + 8 * len(self._waiting):
            # Most are of tasks that have ended: without this a day's worth would pile up.
            self._heap = [each for each in self._heap if each[1] in self._waiting]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (moment, task_id, tenant))

    def passed(self, now: float) -> Iterator[tuple[str, str]]:
        """Tasks and their tenants whose moment has come, each once; some may have ended already."""
        while self._heap and self._heap[0][0] <= now:
            _, task_id, tenant = heapq.heappop(self._heap)
            yield task_id, tenant
