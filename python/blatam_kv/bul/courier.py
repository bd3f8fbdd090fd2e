"""Tells those who asked for it that a task or a batch has ended.

Each callback is a row, written with the task it waits for, so none is lost: it is delivered at least
once, under an id that stays the same, and tried again for most of a day. It is signed like a request
to the service (``blatam_kv.signature``), by the key that asked, so that the receiver can tell who
sent it with what it has already.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import orjson

from blatam_kv.bul.outbound import Outbound, Undelivered
from blatam_kv.bul.storage import Callback, StorageUnavailable
from blatam_kv.bul.tasks import NotFound, Task
from blatam_kv.errors import Error
from blatam_kv.signature import sign

if TYPE_CHECKING:
    from blatam_kv.bul.batches import Batches
    from blatam_kv.bul.storage.callbacks import Callbacks

log = logging.getLogger("blatam_kv.bul")

# Seconds between a try and the next; after the last try it is given up.
PAUSES = (10.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 43_200.0)
SENDERS, SENDERS_PER_TENANT = 4, 2
_LOOK_SECONDS = 0.5
_AWAY_SECONDS = 5.0

# (tenant, key id) → the id and the signing key to sign with, None if there is none any more.
Signer = Callable[[str, str], tuple[str, bytes] | None]


class Subjects(Protocol):
    """What may end and be told of; a service has it."""

    @property
    def batches(self) -> Batches:
        """Those of many documents."""

    def task(self, task_id: str, *, tenant: str) -> Task:
        """A tenant's task. Raises NotFound, StorageUnavailable."""


class Courier:
    """The threads that deliver. Close it when done.

    count: told ``delivered``, ``failed`` or ``given_up`` of each try.
    """

    def __init__(
        self,
        rows: Callbacks,
        subjects: Subjects,
        signer: Signer,
        outbound: Outbound,
        *,
        count: Callable[[str], None] = lambda outcome: None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._rows, self._subjects = rows, subjects
        self._signer, self._outbound = signer, outbound
        self._count = count
        self._pauses = tuple(pauses)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._under_way: dict[str, str] = {}  # callback → tenant
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="bul-courier")
        self._thread = threading.Thread(target=self._run, name="bul-courier", daemon=True)

    def start(self) -> None:
        """Begin to deliver, with what an earlier process left."""
        self._rows.news.set()
        self._thread.start()

    def close(self) -> None:
        """Send nothing more; what is being sent is finished, or will be sent again."""
        self._stopped.set()
        self._rows.news.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._rows.news.wait()
            pause = _LOOK_SECONDS
            try:
                self._rows.news.clear()
                if self._rows.waiting():
                    self._rows.news.set()
                    self._send_due()
            except StorageUnavailable as error:
                log.warning("callbacks wait: %s", error)
                self._rows.news.set()
                pause = _AWAY_SECONDS
            except Exception:  # what goes wrong once must not end the deliveries
                log.exception("delivering callbacks failed")
            self._stopped.wait(pause)

    def _send_due(self) -> None:
        with self._lock:
            # As it is before the rows are read: one that is delivered meanwhile is still due there.
            under_way = dict(self._under_way)
        # One tenant whose receivers hang must not keep the others waiting.
        mine = Counter(under_way.values())
        busy = [tenant for tenant, count in mine.items() if count >= SENDERS_PER_TENANT]
        for callback in self._rows.due(now=time.time(), limit=64, without=busy):
            with self._lock:
                if len(self._under_way) >= SENDERS:
                    return
                count = list(self._under_way.values()).count(callback.tenant)
                if callback.id in under_way or count >= SENDERS_PER_TENANT:
                    continue
                self._under_way[callback.id] = callback.tenant
            self._pool.submit(self._deliver, callback)

    def _deliver(self, callback: Callback) -> None:
        try:
            if self._send(callback):
                self._rows.delivered(callback)
                self._count("delivered")
        except Undelivered as error:
            self._failed(callback, str(error), final=error.final)
        except NotFound as error:
            self._failed(callback, str(error), final=True)
        except StorageUnavailable as error:
            log.warning("a callback waits: %s", error)
        except Exception as error:
            log.exception("a callback failed")
            self._failed(callback, type(error).__name__, final=False)
        finally:
            with self._lock:
                del self._under_way[callback.id]

    def _failed(self, callback: Callback, reason: str, *, final: bool) -> None:
        over = final or callback.tries >= len(self._pauses)
        again = None if over else time.time() + self._pauses[callback.tries]
        log.info("callback %s, try %d: %s", callback.id, callback.tries + 1, reason)
        try:
            self._rows.tried(callback, error=reason[:500], again=again)
        except Error as error:
            log.warning("a callback waits: %s", error)
        self._count("given_up" if over else "failed")  # who sees that finds it so in its row

    def _send(self, callback: Callback) -> bool:
        """Tell it; False if that is another node's by now."""
        signer = self._signer(callback.tenant, callback.key_id)
        if signer is None:
            raise Undelivered("its tenant has no key any more", final=True)
        key_id, key = signer
        body = orjson.dumps(self._event(callback))
        # The last look before it is told: since the row was read, this node may have been thought dead.
        if not self._rows.mine(callback):
            log.info("callback %s is another node's by now", callback.id)
            return False
        headers = sign("POST", callback.url, key_id=key_id, key=key, body=body)
        headers |= {"Webhook-Id": callback.id, "User-Agent": "blatam-kv"}
        self._outbound.post(callback.url, body, headers)
        return True

    def _event(self, callback: Callback) -> dict[str, object]:
        event: dict[str, object] = {"id": callback.id, "attempt": callback.tries + 1}
        if callback.batch is not None:
            rows = self._subjects.batches.rows(callback.batch, tenant=callback.tenant)
            counts = Counter[str](row.status for row in rows)
            path = f"/api/batch/{callback.batch}"
            data: dict[str, object] = {"batch_id": callback.batch, "total": len(rows), **counts}
            data["links"] = {"status": path, "archive": f"{path}/archive"}
            return event | {"type": "batch.completed", "data": data}
        assert callback.task_id is not None
        task = self._subjects.task(callback.task_id, tenant=callback.tenant)
        told: dict[str, object] = {"task_id": task.id, "status": task.status}
        if task.batch is not None:
            told["batch_id"] = task.batch
        if task.error is not None:
            told["error"] = task.error
        if task.answer is not None:
            told["document_id"] = task.answer.id
        told["links"] = {
            "status": f"/task/{task.id}/status",
            "documents": f"/task/{task.id}/documents",
        }
        return event | {"type": f"task.{task.status}", "data": told}
