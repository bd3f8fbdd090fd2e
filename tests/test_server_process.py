"""The service as a process: started, asked over real HTTP, stopped by signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from endpoint_fake import MODEL, endpoint

from blatam_kv.cli.client import Client


@contextmanager
def serving(*flags: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``blatam-kv serve`` and its URL; killed at the end if it still runs."""
    command = [sys.executable, "-m", "blatam_kv", "serve", "--port", "0", *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environ
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "no authentication yet" in line, process.communicate()
        yield process, re.findall(r"http://\S+", line)[0]
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
    with serving() as (process, url):
        with Client(url) as client:
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


def test_it_serves_documents_that_an_endpoint_writes() -> None:
    with endpoint() as fake:
        flags = ["--model", "openai", "--openai-base-url", fake.url, "--openai-model", MODEL]
        with (
            serving(*flags, BUL_OPENAI_API_KEY="sk-4711", NO_PROXY="127.0.0.1") as (process, url),
            Client(url) as client,
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
    with serving() as (process, url):
        with Client(url) as client:
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_a_host_that_others_can_reach_is_refused_with_the_reason(host: str) -> None:
    done = serve("--host", host, "--port", "0")
    assert done.returncode == 2
    assert "no authentication yet" in done.stderr
    assert "--host 127.0.0.1" in done.stderr
    assert done.stdout == ""


def test_the_host_of_the_environment_is_refused_too() -> None:
    done = serve("--port", "0", BUL_API_HOST="0.0.0.0")
    assert done.returncode == 2
    assert "no authentication yet" in done.stderr


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
    with serving("--config", str(file)) as (_, url), Client(url) as client:
        stats = client.request("GET", "/api/v1/kv-cache/stats").json()
    assert stats["strategy"] == "fifo"
