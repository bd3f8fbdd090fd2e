"""What is shipped for Prometheus: the rules against made-up series, the whole against a real service."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from gateway_servers import gateway
from prometheus_server import DEPLOYED, ROOT, prometheus, promtool
from test_server_process import asked, completed, serving

PAGE = (ROOT / "docs" / "MONITORING.md").read_text()


def test_the_configuration_and_its_rules_are_valid() -> None:
    said = promtool("check", "config", "prometheus.yml", cwd=DEPLOYED)
    assert "3 rule files found" in said


def test_every_alert_fires_when_it_must_and_else_not(tmp_path: Path) -> None:
    for rules in DEPLOYED.glob("*.yml"):
        shutil.copy(rules, tmp_path)
    shutil.copy(ROOT / "tests" / "data" / "alerts.test.yml", tmp_path)
    promtool("test", "rules", "alerts.test.yml", cwd=tmp_path)


def test_every_alert_is_tested_and_has_its_section_in_the_page() -> None:
    alerts = re.findall(r"alert: (\w+)\n", (DEPLOYED / "alerts.yml").read_text())
    original = "SystemDown CriticalLatency HighErrorRate LowCacheHitRate HighMemoryUsage"
    original += " LowThroughput CacheWarmingRecommended BackupPending"
    assert set(original.split()) <= set(alerts)
    cases = (ROOT / "tests" / "data" / "alerts.test.yml").read_text()
    runbooks = re.findall(r"docs/MONITORING\.md#(\w+)", (DEPLOYED / "alerts.yml").read_text())
    assert runbooks == [alert.lower() for alert in alerts]
    for alert in alerts:
        assert f"alertname: {alert}\n" in cases, alert
        assert f"### {alert}\n" in PAGE, alert


def test_a_service_is_scraped_and_its_end_sets_off_the_alarm(tmp_path: Path) -> None:
    flags = ("--cache-persistence", "on", "--kv-disk-mb", "64")
    with serving(*flags, data_dir=tmp_path / "data", BUL_BACKUP_ENABLED="true") as (
        process,
        client,
    ):
        assert completed(client, asked(client, "Plan de negocio"))
        asked(client, "Plan de negocio")
        # Longer than a block of tokens, so that there is one to be encoded.
        content = "Un plan de negocio para una panadería con obrador propio. " * 8
        chat = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
        assert client.request("POST", "/v1/chat/completions", chat).status == 200
        target = client.url.removeprefix("http://")
        text = client.request("GET", "/metrics").content
        promtool("check", "metrics", cwd=tmp_path, text=text)
        declared = set(re.findall(r"^# TYPE (\w+) ", text.decode(), re.MULTILINE))
        for series in (
            'kv_codec_duration_seconds_count{codec="raw",operation="encode"}',
            'kv_tier_operation_duration_seconds_count{operation="get",store="answers",tier="disk"}',
            'kv_tier_operation_duration_seconds_count{operation="put",store="answers",tier="disk"}',
            "http_server_active_requests",
        ):
            (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", text.decode(), re.MULTILINE)
            assert float(value) >= 1, series
        assert named() == {name for name in declared if not name.startswith("process_")}
        with prometheus(tmp_path, target=target) as server:
            assert server.wait_for('kv_cache_requests_total{status="hit"} == 1')
            assert server.wait_for('up{job="bul"} == 1')
            assert server.wait_for('absent(ALERTS{alertname="SystemDown"})')
            process.kill()
            ((labels, _),) = server.wait_for(
                'ALERTS{alertname="SystemDown", alertstate="firing", severity="critical"}'
            )
            assert labels["instance"] == target
            alert = server.alert("SystemDown")
            assert "docs/MONITORING.md#systemdown" in alert["annotations"]["runbook"]


def named() -> set[str]:
    """Every metric that the page names, but for those of the process."""
    rows = PAGE.partition("## Metrics\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)", rows, re.MULTILINE)
    assert len(names) == len(set(names))
    return {name for name in names if not name.startswith("process_")}


def test_a_backup_that_fails_and_a_cache_without_hits_set_off_their_alarms(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.touch()  # a file where a folder should be: no backup can be made
    with serving(
        "--cache-persistence",
        "on",
        data_dir=tmp_path / "data",
        BUL_BACKUP_ENABLED="true",
        BUL_BACKUP_DIR=str(backups),
    ) as (_, client):
        assert completed(client, asked(client, "Plan de negocio"))
        with prometheus(tmp_path, target=client.url.removeprefix("http://")) as server:
            firing = 'ALERTS{alertstate="firing", alertname="%s"}'
            assert server.wait_for(firing % "BackupPending")
            assert server.wait_for('kv_cache_backups_total{outcome="error"} >= 1')
            backups.unlink()
            assert client.request("POST", "/api/v1/backups").json()["backup"]
            assert server.wait_for("time() - kv_cache_last_backup_timestamp_seconds < 600")
            assert server.wait_for(f"absent({firing % 'BackupPending'})")
            asked(client, "Plan de marketing")
            assert server.wait_for(firing % "LowCacheHitRate")


def test_a_system_behind_a_gateway_and_the_gateway_set_off_their_alarms(tmp_path: Path) -> None:
    for name in ("prometheus", "gateway"):
        (tmp_path / name).mkdir()
    systems = {"gamma": {"url": "http://127.0.0.1:1"}}
    with (
        gateway(tmp_path / "gateway", systems, health_seconds=0.5) as gate,
        prometheus(
            tmp_path / "prometheus",
            target="127.0.0.1:1",
            gateway=gate.url.removeprefix("http://"),
        ) as server,
    ):
        firing = 'ALERTS{alertstate="firing", alertname="%s"}'
        ((labels, _),) = server.wait_for(firing % "UpstreamDown")
        assert labels["system"] == "gamma"
        assert server.wait_for(f"absent({firing % 'GatewayDown'})")
        gate.running.kill()
        ((labels, _),) = server.wait_for(firing % "GatewayDown")
        assert labels["instance"] == gate.url.removeprefix("http://")
