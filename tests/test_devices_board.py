"""The dashboard and the alert of devices: a real Prometheus scrapes a node whose model runs on four."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_blocks import Block, DictTier, Engine, open_tier, some_slots
from device_fakes import Machine
from device_node import Node, node
from prometheus_server import prometheus
from test_grafana import every_curve_has_data
from test_server_process import asked, completed

from blatam_kv.cli.remote import connect

SEED = (0.30, 0.45, 0.20, 0.15)  # the original's picture


@contextmanager
def traffic(bul: Node) -> Iterator[None]:
    """Documents and a conversation that grows, for the body of the ``with``, and blocks that come and
    go in the memory of the first device."""
    done = threading.Event()
    tier, _ = open_tier(DictTier(), 48 << 10)
    blocks = [Block.of(number, "int4") for number in range(8)]
    engine = Engine()
    for tensor in engine.tensors:
        tensor[:] = 0  # it is full of NaN, of which few fit into a block

    def move(number: int) -> None:
        few = [blocks[(number + at) % len(blocks)].record for at in range(3)]
        keys, slots = [record.key for record in few], some_slots(3, number)
        tokens = [bytes(record.tokens) for record in few]
        tier.save_blocks(keys, engine.cache, slots, codec="int4", tags=few[0].tags, tokens=tokens)
        tier.get_many(keys)
        with tier.load_layers(keys, engine.cache, slots) as load:
            load.finish()
        bul.models["0"].held = [tier.snapshot()]

    def go_on() -> None:
        number, said = 0, ""
        with connect(bul.client.url, bul.settings) as client:
            while not done.wait(0.02):
                completed(client, asked(client, f"Plan {number}"))
                said += f" Una panadería con obrador propio, dice el plan {number}."
                chat = {"messages": [{"role": "user", "content": said[:8_000]}], "max_tokens": 8}
                client.request("POST", "/v1/chat/completions", chat)
                move(number)
                number += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        tier.close()


def test_every_curve_of_the_board_has_data_and_a_device_that_is_out_sets_off_the_alarm(
    tmp_path: Path,
) -> None:
    for name in ("prometheus", "data"):
        (tmp_path / name).mkdir()
    with (
        node(tmp_path / "data", Machine(SEED)) as bul,
        prometheus(
            tmp_path / "prometheus", target=bul.client.url.removeprefix("http://")
        ) as server,
        traffic(bul),
    ):
        every_curve_has_data(server, devices=True)
        seen = server.wait_for("kv_cache_gpu_utilization_ratio")
        assert {labels["gpu"]: value for labels, value in seen} == dict(
            zip("0123", SEED, strict=True)
        )
        assert server.wait_for("sum(kv_cache_gpu_saved_tokens_total) > 0")
        assert server.wait_for('absent(ALERTS{alertname="DeviceOutOfRotation"})')
        bul.machine.broken = {"3"}
        ((labels, _),) = server.wait_for(
            'ALERTS{alertname="DeviceOutOfRotation", alertstate="firing"}'
        )
        assert (labels["gpu"], labels["severity"]) == ("3", "warning")
        alert = server.alert("DeviceOutOfRotation")
        assert "docs/MONITORING.md#deviceoutofrotation" in alert["annotations"]["runbook"]
