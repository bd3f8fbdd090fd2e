"""A real BUL node whose model runs on several devices: served over HTTP by a thread of the test, with
the models and the monitor that the test hands in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from bul_fakes import VERSION, until
from device_fakes import Machine, OnDevice

from blatam_kv.bul.security import make_guard, open_keys
from blatam_kv.bul.service import Service
from blatam_kv.cli.remote import connect
from blatam_kv.client import Client
from blatam_kv.config import Settings
from blatam_kv.server.bul import create_app
from blatam_kv.server.serve import listen, url_of, uvicorn_config
from blatam_kv.truthgpt.replicas import Replicas


@dataclass(frozen=True, slots=True)
class Node:
    """What a test may look at, break and ask. settings: as the command line would have them."""

    models: Mapping[str, OnDevice]
    machine: Machine
    replicas: Replicas
    service: Service
    settings: Settings
    client: Client


@contextmanager
def node(folder: Path, machine: Machine, *, interval: float = 0.02) -> Iterator[Node]:
    """A node with a model on each GPU of the machine."""
    settings = Settings(
        data_dir=folder, log_level="error", cache_persistence=False, retry_attempts=1,
        retry_delay=0.01,
    )  # fmt: skip
    models = {gpu: OnDevice() for gpu in machine.gpus()}
    replicas = Replicas(models, machine, interval=interval, clock=machine.clock)
    with replicas:
        service = Service(replicas, settings, version=VERSION)
        keys = open_keys(settings)
        guard = make_guard(settings, keys, count=service.metrics.rejected)
        listener = listen("127.0.0.1", 0)
        config = uvicorn_config(create_app(service, guard), settings)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            with connect(url_of(listener), settings) as client:
                yield Node(models, machine, replicas, service, settings, client)
        finally:
            server.should_exit = True
            thread.join()
            service.close(seconds=5.0)
            guard.close()
