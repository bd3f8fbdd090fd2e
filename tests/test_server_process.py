"""The service as a process: started, asked over real HTTP, stopped by signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from endpoint_fake import MODEL, endpoint

from blatam_kv.cli.remote import connect
from blatam_kv.client import Client
from blatam_kv.config import Settings


@contextmanager
def serving(
    *flags: str, data_dir: Path | None = None, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A running ``blatam-kv serve`` and a client with its key; killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(data_dir or temporary)
        command = [sys.executable, "-m", "blatam_kv", "serve", "--port", "0", "--data-dir", folder]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*command, *flags], stdout=pipe, stderr=pipe, text=True, env=os.environ | environ
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert " listens on " in line, process.communicate()
            url = re.findall(r"http://\S+", line)[0]
            with connect(url, replace(Settings(), data_dir=Path(folder))) as client:
                yield process, client
        finally:
            process.kill()
            process.communicate()


def serve(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A ``blatam-kv serve`` that is expected to end by itself."""
    command = [sys.executable, "-m", "blatam_kv", "serve", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environ, timeout=300, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_a_real_document_and_a_signal_ends_it_with_status_0(
    number: signal.Signals,
) -> None:
    with serving() as (process, client):
        asked = {"query": "Plan de negocio para una panadería", "max_length": 60}
        task = client.request("POST", "/query", asked).json()
        while task["status"] not in ("completed", "failed"):
            task = client.request("GET", f"/task/{task['task_id']}/status").json()
        assert task["status"] == "completed", task
        again = client.request("POST", "/query", asked)
        assert again.json()["documents"] == [
            document | {"href": again.json()["documents"][0]["href"]}
            for document in task["documents"]
        ]
        assert "; hit" in again.headers["Cache-Status"]
        assert "server" not in again.headers
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def test_the_renderer_runs_alone_and_a_signal_ends_it_with_status_0() -> None:
    with serving("--only", "export") as (process, client):
        form = {"markdown": "# Plan\n\nTexto", "format": "pdf"}
        reply = client.request("POST", "/api/v1/export", form)
        assert reply.status == 200
        assert reply.content.startswith(b"%PDF-")
        assert client.request("GET", "/task/x/status").status == 404
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_it_serves_documents_that_an_endpoint_writes() -> None:
    with endpoint() as fake:
        flags = ["--model", "openai", "--openai-base-url", fake.url, "--openai-model", MODEL]
        with serving(*flags, BUL_OPENAI_API_KEY="sk-4711", NO_PROXY="127.0.0.1") as (
            process,
            client,
        ):
            task = client.request("POST", "/query", {"query": "Plan de negocio"}).json()
            while task["status"] not in ("completed", "failed"):
                task = client.request("GET", f"/task/{task['task_id']}/status").json()
            assert task["status"] == "completed", task
            asked = len(fake.requests)
            again = client.request("POST", "/query", {"query": "Plan de negocio"})
            assert "; hit" in again.headers["Cache-Status"]
            assert len(fake.requests) == asked
            assert client.request("GET", "/version").json()["model"] == MODEL
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert {request.headers.get("Authorization") for request in fake.requests} == {
            "Bearer sk-4711"
        }
        assert "sk-4711" not in output + errors


def test_a_signal_in_the_middle_of_a_document_ends_it_with_status_0() -> None:
    with serving() as (process, client):
        client.request("POST", "/query", {"query": "a long one", "temperature": 1.5})
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def test_uvloop_and_httptools_are_in_use() -> None:
    with serving("--log-level", "debug") as (process, _):
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "uvloop" in maps
    assert "httptools" in maps


def test_a_port_in_use_is_named_with_the_fix() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_is_no_address_is_refused_with_the_fix() -> None:
    done = serve("--host", "example.com", "--port", "0")
    assert done.returncode == 2
    assert "use 127.0.0.1 for this machine only" in done.stderr
    assert done.stdout == ""


def test_a_weak_secret_stops_it_and_is_not_shown(tmp_path: Path) -> None:
    done = serve("--port", "0", "--data-dir", str(tmp_path), BUL_HMAC_SECRET="changeme" * 8)
    assert done.returncode == 2
    assert "openssl rand -hex 32" in done.stderr
    assert "changeme" not in done.stderr


def test_other_networks_may_ask_and_the_operator_is_told_of_clear_text() -> None:
    with serving("--host", "0.0.0.0") as (process, client):
        assert client.request("GET", "/stats").status == 200
        assert process.stdout is not None
        assert "put TLS in front" in process.stdout.readline()


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({"BUL_API_PROT": "1"}, "did you mean BUL_API_PORT?"),
        ({"KV_CACHE_STRATEGY": "paged"}, "use one of lru, lfu, fifo"),
    ],
)
def test_a_bad_environment_stops_it_before_it_starts(environ: dict[str, str], hint: str) -> None:
    done = serve("--port", "0", **environ)
    assert done.returncode == 2
    assert hint in done.stderr


def test_a_configuration_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "bul.yaml"
    file.write_text("bul: {cache_ttl: 77}\nkv_cache: {strategy: fifo}\n")
    with serving("--config", str(file)) as (_, client):
        stats = client.request("GET", "/api/v1/kv-cache/stats").json()
    assert stats["strategy"] == "fifo"


# What outlives the process.


def asked(client: Client, query: str) -> str:
    reply = client.request("POST", "/query", {"query": query, "max_length": 40})
    task_id: str = reply.json("task_id")["task_id"]
    return task_id


def completed(client: Client, task_id: str) -> bool:
    path = f"/task/{task_id}/status"
    while (task := client.request("GET", path).json())["status"] not in ("completed", "failed"):
        pass
    return bool(task["status"] == "completed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_unfinished_tasks_go_on_after_a_restart(tmp_path: Path, number: signal.Signals) -> None:
    with serving(data_dir=tmp_path, BUL_CONTINUOUS_MODE="false") as (process, client):
        tasks = [asked(client, f"Plan de negocio {n}") for n in range(3)]
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), errors
    with serving(data_dir=tmp_path) as (_, client):
        assert all(completed(client, task) for task in tasks)


def test_hits_are_on_record_when_a_signal_ends_the_service(tmp_path: Path) -> None:
    with serving(data_dir=tmp_path) as (process, client):
        assert completed(client, asked(client, "Plan de negocio"))
        hits = [asked(client, "Plan de negocio") for _ in range(20)]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    with serving(data_dir=tmp_path) as (_, client):
        assert client.request("GET", "/tasks").json()["total"] == 21
        assert client.request("GET", "/documents").json()["total"] == 1
        assert completed(client, hits[-1])


def test_a_second_service_in_a_data_directory_is_refused_with_the_fix(tmp_path: Path) -> None:
    with serving(data_dir=tmp_path):
        done = serve("--port", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert f"another service runs in {tmp_path}" in done.stderr
    assert "--data-dir" in done.stderr


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://bul:s3cret@/bul?host={tmp_path}"
    done = serve("--port", "0", "--data-dir", str(tmp_path / "data"), BUL_DATABASE_URL=url)
    assert done.returncode == 1
    assert "the database postgresql" in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr
