"""Looks at a balancer's GPUs, and tries those that are out, in threads of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Self

from blatam_kv.devices.balancer import Balancer, Ticket
from blatam_kv.errors import ConfigError

log = logging.getLogger("blatam_kv.devices")

# What a close waits for a look at a driver that does not answer; its thread ends with the process.
_CLOSE_SECONDS = 5.0


class Watch:
    """Reads every GPU each ``interval`` seconds from its start to its close; a context manager.

    probe: called with the name of a GPU whose pause is over, each in a thread of its own, since one
    that hangs must not keep the others out; what it raises is a failure of that GPU. None: no GPU
    is tried.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        probe: Callable[[str], object] | None = None,
        interval: float = 1.0,
    ) -> None:
        if not 0 < interval < 1e6:
            raise ConfigError(f"interval is {interval}; it must be a number of seconds above 0")
        self._balancer = balancer
        self._probe = probe
        self._interval = interval
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="device-watch", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin. The first look is over when this returns."""
        self._look()
        self._thread.start()

    def close(self) -> None:
        """End. Nothing is read after it, unless the driver hangs in the last look."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def _look_on(self) -> None:
        while not self._closed.wait(self._interval):
            self._look()

    def _look(self) -> None:
        try:
            self._balancer.read()
        except Exception:  # the watch outlives any monitor; readings grow stale meanwhile
            log.exception("the monitor failed")
        if self._probe is None:
            return
        for ticket in self._balancer.trials():
            threading.Thread(
                target=self._try, args=(ticket, self._probe), name="device-probe", daemon=True
            ).start()

    def _try(self, ticket: Ticket, probe: Callable[[str], object]) -> None:
        try:
            probe(ticket.gpu)
        except Exception as error:  # whatever it was, the GPU did not answer as one that is well
            ticket.failed()
            log.info("%s is still out: %s", ticket.gpu, error)
        else:
            ticket.done()
            log.warning("%s is back in the rotation", ticket.gpu)
