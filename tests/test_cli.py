"""The command line: what it prints, and with which status it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from endpoint_fake import MODEL, endpoint
from test_server_process import serving

import blatam_kv
from blatam_kv import cli
from blatam_kv.cli import bench, demo, passage, started
from blatam_kv.cli.started import DemoFailed
from blatam_kv.client import Client, Reply
from blatam_kv.signature import Claim, Parts, content_digest, keyed

Captured = pytest.CaptureFixture[str]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blatam_kv", *arguments]
    env = os.environ | environ
    return subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=1200, check=False
    )


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same to everyone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# Usage.


def test_version_and_help() -> None:
    assert run("--version").stdout == f"blatam-kv {blatam_kv.__version__}\n"
    page = run("--help").stdout
    assert "examples:" in page
    for command in ("demo", "serve", "stats", "health", "clear", "simulate", "bench", "doctor"):
        assert f"\n    {command}" in page
        assert run(command, "--help").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["sevre"], ["stats", "--jsno"], ["serve", "--port"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serve", "--port", "x"], "--port must be a whole number"),
        (["serve", "--config", "/nowhere.yaml"], "cannot read the configuration /nowhere.yaml"),
        (["stats", "--url", "127.0.0.1:8002"], "must look like http://127.0.0.1:8002"),
        (["stats", "--url", "http://127.0.0.1:x"], "must look like"),
        (["stats", "--url", "https://127.0.0.1"], "must look like"),
        (["bench", "cahce"], "no table is called 'cahce'"),
    ],
)
def test_a_bad_value_ends_with_2_and_names_the_fix(
    arguments: list[str], hint: str, capsys: Captured
) -> None:
    assert cli.main(arguments) == 2
    assert hint in capsys.readouterr().err


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = "starlette uvicorn pydantic orjson prometheus_client yaml markdown_it nh3 torch httpx"
    program = (
        "import sys, blatam_kv.cli; "
        f"print(*[name for name in '{heavy} numpy asyncio'.split() if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# The running service.


@pytest.mark.parametrize("command", ["stats", "health", "clear"])
def test_nobody_there_ends_with_3_and_names_the_fix(
    command: str, nobody: str, capsys: Captured
) -> None:
    assert cli.main([command, "--url", nobody]) == 3
    complaint = capsys.readouterr().err
    assert f"no service answers at {nobody}" in complaint
    assert "--url" not in complaint  # the flag that gives the URL has another name elsewhere
    assert "blatam-kv serve" in complaint


def test_stats_health_and_clear_talk_to_the_running_service(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUL_DATA_DIR", str(tmp_path))
    with serving(data_dir=tmp_path) as (_, client):
        url = client.url
        assert cli.main(["stats", "--json", "--url", url]) == 0
        stats = json.loads(capsys.readouterr().out)
        assert stats["service"]["total_tasks"] == 0
        assert stats["cache"]["strategy"] == "adaptive"
        assert stats["cache"]["learned"]["leader"] == "density"
        assert cli.main(["stats", "--url", url]) == 0
        assert "hit_rate" in capsys.readouterr().out
        assert cli.main(["health", "--json", "--url", url]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "healthy"
        assert cli.main(["clear", "--url", url]) == 0
        assert capsys.readouterr().out == "forgot 0 cached answers\n"
        assert cli.main(["clear", "--json", "--url", url]) == 0
        assert json.loads(capsys.readouterr().out) == {"cleared": 0}
        assert cli.main(["monitor", "--url", url, "--count", "2", "--interval", "0.05"]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert "P99 ms" in head
        assert len(lines) == 2
        assert cli.main(["monitor", "--url", url, "--count", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["requests"] == 0
        assert cli.main(["monitor", "--url", url, "--interval", "0"]) == 2
        assert "--interval takes" in capsys.readouterr().err
        # Without the data directory's secret it takes a key, and one with that right.
        assert cli.main(["keys", "create", "--tenant", "acme", "--json"]) == 0
        key = json.loads(capsys.readouterr().out)["api_key"]
        monkeypatch.setenv("BUL_DATA_DIR", str(tmp_path / "none"))
        assert cli.main(["stats", "--url", url]) == 1
        assert "401" in capsys.readouterr().err
        monkeypatch.setenv("BLATAM_KV_API_KEY", key)
        assert cli.main(["stats", "--url", url]) == 0
        assert cli.main(["clear", "--url", url]) == 1
        assert "403" in capsys.readouterr().err


def test_config_says_who_said_what_and_shows_no_secret(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "bul.yaml"
    file.write_text("bul: {cache_ttl: 77}\n")
    secret = "9f2c1d7e5b8a4c3d6e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f"
    monkeypatch.setenv("BUL_HMAC_SECRET", secret)
    monkeypatch.setenv("BUL_API_PORT", "8100")
    flags = ["config", "--config", str(file), "--data-dir", str(tmp_path)]
    assert cli.main([*flags, "--json"]) == 0
    text = capsys.readouterr().out
    lines = {line["setting"]: line for line in json.loads(text)["settings"]}
    assert (lines["bul.cache_ttl"]["value"], lines["bul.cache_ttl"]["origin"]) == (
        77.0,
        f"{file}: bul.cache_ttl",
    )
    assert lines["bul.api_port"]["origin"] == "environment variable BUL_API_PORT"
    assert lines["bul.data_dir"]["origin"] == "--data-dir"
    assert lines["bul.model"]["origin"] == "default"
    assert lines["bul.hmac_secret"]["value"] == "(set)"
    assert cli.main([*flags, "--show-origin"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"bul.api_port +8100 +environment variable BUL_API_PORT", shown)
    assert secret not in text + shown
    assert cli.main(flags) == 0
    assert "environment" not in capsys.readouterr().out


def test_keys_are_made_listed_renewed_and_revoked(capsys: Captured, tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path)]
    assert cli.main(["keys", "list", *where]) == 0
    assert "no keys yet" in capsys.readouterr().out
    assert cli.main(["keys", "create", "--tenant", "acme", "--allow", "10.0.0.0/8", *where]) == 0
    shown = capsys.readouterr().out
    assert "not shown again" in shown
    api_key, signing_key = re.findall(r"(?:API|signing) key +(\S+)", shown)
    assert api_key.startswith("bkv_")
    assert len(bytes.fromhex(signing_key)) == 32
    key_id = api_key.split("_")[1]
    assert cli.main(["keys", "rotate", key_id, "--overlap", "0", "--json", *where]) == 0
    successor = json.loads(capsys.readouterr().out)
    assert successor["tenant"] == "acme"
    assert successor["networks"] == ["10.0.0.0/8"]
    assert cli.main(["keys", "revoke", successor["key_id"], *where]) == 0
    assert "is revoked" in capsys.readouterr().out
    assert cli.main(["keys", "list", *where]) == 0
    table = capsys.readouterr().out
    assert "revoked" in table
    assert api_key not in table
    assert cli.main(["keys", "list", "--json", *where]) == 0
    states = [key["state"] for key in json.loads(capsys.readouterr().out)["keys"]]
    assert sorted(states) == ["revoked", "verify-only"]
    assert cli.main(["keys", "revoke", "nobody", *where]) == 2
    assert "there is no key" in capsys.readouterr().err


def test_sign_prints_headers_for_curl(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(b'{"query": "x"}')
    flags = ["--method", "POST", "--key-id", "k1", "--data", f"@{body}"]
    url = "http://127.0.0.1:8002/query"
    monkeypatch.delenv("BLATAM_KV_SIGNING_KEY", raising=False)
    assert cli.main(["sign", url, *flags]) == 2
    assert "BLATAM_KV_SIGNING_KEY must hold" in capsys.readouterr().err
    monkeypatch.setenv("BLATAM_KV_SIGNING_KEY", bytes(range(32)).hex())
    assert cli.main(["sign", url, *flags]) == 0
    headers = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert headers["Content-Digest"] == content_digest(body.read_bytes())
    claim = Claim.read([headers["Signature-Input"]], [headers["Signature"]])
    parts = Parts(
        method="POST",
        authority="127.0.0.1:8002",
        path="/query",
        query="?",
        content_type="application/json",
        content_digest=headers["Content-Digest"],
    )
    assert claim.proves(parts, keyed(bytes(range(32))))


def test_an_unhealthy_service_ends_with_1(capsys: Captured) -> None:
    body = b'{"status": "unhealthy", "components": {"writers": "stopped"}}'
    with answering(503, body) as url:
        assert cli.main(["health", "--url", url]) == 1
    assert "stopped" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["stats", "health", "clear"])
@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (200, b"<html>", "something strange; is it BUL?"),
        (404, b'{"detail": "nothing here"}', "answered 404: nothing here"),
        (200, b"[]", "is it BUL?"),
    ],
)
def test_another_server_there_ends_with_1(
    command: str, status: int, body: bytes, hint: str, capsys: Captured
) -> None:
    with answering(status, body) as url:
        assert cli.main([command, "--url", url]) == 1
    assert hint in capsys.readouterr().err


# The demo.


def test_the_demo_writes_every_document_twice_the_same_and_ends_with_0(tmp_path: Path) -> None:
    done = run("demo", "--json", "--output", str(tmp_path / "out"), NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["documents"] == len(demo.QUERIES) >= 10
    assert list(summary["gateway"]["systems_ms"]) == list(passage.OTHERS)
    assert summary["gateway"]["absent_system"].startswith(
        "502: the system nobody cannot be reached"
    )
    assert summary["hit_rate_second_round"] == 1.0
    assert summary["hit_rate"] == 0.5
    assert summary["seconds_saved"] > 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(files) == summary["files"] == 6 * len(demo.QUERIES)
    assert {name.split("_")[1] for name in files} == {"es", "en"}
    assert all((tmp_path / "out" / name).stat().st_size > 100 for name in files)
    briefing = summary["briefing"]
    assert briefing["documents"] == 3
    assert briefing["cached_tokens"] >= 2 * 128
    assert briefing["first_text_ms"].keys() == {"computed", "memory", "disk"}
    assert f"{2 * len(demo.QUERIES)}/{2 * len(demo.QUERIES)}  cached" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_terminal_gets_a_bar_and_anything_else_a_line_for_each_step(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    master, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with demo.progress(2) as step:
            step("one")
            step("two")
        # The kernel hands a terminal's text on in pieces, in its own time.
        shown = ""
        while not ("2/2" in shown and "two" in shown) and select.select([master], [], [], 20)[0]:
            shown += os.read(master, 1 << 16).decode()
    os.close(master)
    assert "2/2" in shown
    assert "two" in shown
    with demo.progress(2) as step:
        step("one")
    assert capsys.readouterr().err == " 1/2  one\n"


@pytest.mark.parametrize("target", ["file", "/proc/nowhere", "/dev/null/x"])
def test_an_unwritable_output_is_refused_before_anything_starts(
    tmp_path: Path, target: str
) -> None:
    (tmp_path / "file").write_text("mine")
    done = run("demo", "--output", str(tmp_path / target))
    assert done.returncode == 1
    assert "cannot write to" in done.stderr
    assert "--output DIR" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.md"
    demo.write_whole(target, b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(started.DemoFailed, match="No space left"):
        demo.write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]


def test_a_system_that_answers_to_another_s_name_ends_the_demo() -> None:
    class Confused:
        def request(self, method: str, path: str, wanted: dict[str, str]) -> Reply:
            said = {"name": "gamma", "path": wanted["endpoint"]}
            return Reply(200, HTTPMessage(), json.dumps(said).encode())

    assert len(passage._asked(Confused(), "gamma")) > 1  # type: ignore[arg-type]  # all that is asked
    with pytest.raises(DemoFailed, match="export-ia was asked by its name, and gamma answered"):
        passage._asked(Confused(), "export-ia")  # type: ignore[arg-type]


def test_the_sample_system_ends_well_when_it_is_told_to() -> None:
    with started.sample("gamma") as url, Client(url) as client:
        assert client.request("GET", "/health").json("name")["name"] == "gamma"
    passed = passage.Passed(1.0, 2.0, {}, "502: gone")
    assert "in examples/ of the source" in passage.table(passed)


def test_a_demo_whose_second_round_misses_fails(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"bul": {"cache_ttl": 0.000001}}')
    done = run("demo", "--config", str(config), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "came no hit the second time" in done.stderr


def test_a_demo_that_is_told_to_stop_takes_its_service_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blatam_kv", "demo", "--output", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "1/20  computed" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()


# Bench and doctor.


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the current directory a checkout whose bench/ has these scripts."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bench").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blatam_kv, "__file__", "/nowhere/site-packages/blatam_kv/__init__.py")

    def make(**scripts: str) -> None:
        for name, text in scripts.items():
            (tmp_path / "bench" / f"{name}.py").write_text(text)

    return make


def test_bench_runs_all_tables_or_the_named_ones(
    checkout: Callable[..., None], capfd: Captured
) -> None:
    checkout(one="print('first')", two="print('second')")
    assert cli.main(["bench"]) == 0
    both = capfd.readouterr().out
    assert both.index("first") < both.index("second")
    assert cli.main(["bench", "two"]) == 0
    assert "first" not in capfd.readouterr().out


def test_bench_ends_with_1_if_a_table_fails(checkout: Callable[..., None], capfd: Captured) -> None:
    checkout(bad="raise SystemExit(3)", good="print('fine')")
    assert cli.main(["bench"]) == 1
    captured = capfd.readouterr()
    assert "fine" in captured.out
    assert "failed: bad" in captured.err


def test_bench_outside_a_checkout_says_where_the_tables_are(
    checkout: Callable[..., None], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "pyproject.toml").unlink()
    assert cli.main(["bench"]) == 1
    assert "bench/*.py" in capsys.readouterr().err


def test_bench_finds_this_checkout() -> None:
    assert bench.folder() == Path(__file__).resolve().parents[1] / "bench"


def test_doctor_reports_everything_it_promises(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["doctor", "--json", "--data-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert report["isa"]
    assert "c++" in report["compiler"] or "g++" in report["compiler"]
    assert set(report["cuda"]) == {"built", "architectures", "driver", "devices", "reason"}
    assert report["cuda"]["built"] is bool(report["cuda"]["architectures"])
    assert report["cuda"]["built"] or "without CUDA" in report["cuda"]["reason"]
    assert report["extras"]["server"]["starlette"]
    assert report["extras"]["documents"]["nh3"]
    assert report["data_dir"]["path"] == str(tmp_path)
    assert report["data_dir"]["reason"] is None
    assert report["mini"]["reason"] is None
    assert report["problems"] == []
    assert cli.main(["doctor"]) == 0
    assert "compiler" in capsys.readouterr().out


def test_doctor_says_whether_the_endpoint_answers_and_has_the_model(capsys: Captured) -> None:
    with endpoint() as fake:
        flags = ["doctor", "--json", "--model", "openai", "--openai-base-url", fake.url]
        assert cli.main([*flags, "--openai-model", MODEL]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["model"] == "openai"
        assert report["openai"] == {
            "model": MODEL,
            "base_url": fake.url,
            "fingerprint": report["openai"]["fingerprint"],
            "context_tokens": 2048,
            "reason": None,
        }
        assert fake.chats == []
        assert cli.main([*flags, "--openai-model", "acme/writer"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert report["problems"] == [
            f"openai: the endpoint answers but does not list 'acme/writer' (did you mean {MODEL}?);"
            f" it lists {MODEL}"
        ]


def test_doctor_says_when_nobody_answers_at_the_endpoint(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUL_OPENAI_ATTEMPTS", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--model", "openai", "--openai-base-url", url, "--openai-model", "m"]
        assert cli.main(["doctor", "--json", *flags]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["problems"][0].startswith(f"openai: nobody answers at {url}/v1")


def test_serve_with_half_an_endpoint_says_what_is_missing(tmp_path: Path, capsys: Captured) -> None:
    flags = ["--port", "0", "--model", "openai", "--openai-model", "m"]
    flags += ["--data-dir", str(tmp_path)]
    assert cli.main(["serve", *flags]) == 2
    assert "--openai-base-url, BUL_OPENAI_BASE_URL" in capsys.readouterr().err


def test_the_key_has_no_flag(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--openai-api-key", "sk-1"])
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_doctor_says_whether_the_database_answers(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["doctor", "--json", "--data-dir", str(tmp_path)]
    monkeypatch.setenv("BUL_DATABASE_URL", f"sqlite:///{tmp_path / 'bul.db'}")
    assert cli.main(flags) == 0
    assert json.loads(capsys.readouterr().out)["database"] == {"revision": None, "reason": None}
    monkeypatch.setenv("BUL_DATABASE_URL", f"postgresql://bul:s3cret@/bul?host={tmp_path}")
    assert cli.main(flags) == 1
    report = capsys.readouterr().out
    assert "the database postgresql" in json.loads(report)["database"]["reason"]
    assert "s3cret" not in report


def test_doctor_ends_with_1_on_an_unwritable_data_directory(
    tmp_path: Path, capsys: Captured
) -> None:
    assert cli.main(["doctor", "--json", "--data-dir", "/proc/nowhere"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "BUL_DATA_DIR" in report["problems"][0]
