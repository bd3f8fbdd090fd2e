"""What is shipped for Prometheus: the rules against made-up series, the whole against a real service."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bul_fakes import Scripted, running
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
    with serving() as (process, client):
        assert completed(client, asked(client, "Plan de negocio"))
        asked(client, "Plan de negocio")
        target = client.url.removeprefix("http://")
        promtool("check", "metrics", cwd=tmp_path, text=client.request("GET", "/metrics").content)
        with prometheus(tmp_path, target=target) as server:
            assert server.wait_for('kv_cache_requests_total{status="hit"} == 1')
            assert server.wait_for('up{job="bul"} == 1')
            assert not server.query('ALERTS{alertname="SystemDown"}')
            process.kill()
            ((labels, _),) = server.wait_for(
                'ALERTS{alertname="SystemDown", alertstate="firing", severity="critical"}'
            )
            assert labels["instance"] == target
            (alert,) = server.get("alerts")["alerts"]
            assert "docs/MONITORING.md#systemdown" in alert["annotations"]["runbook"]


def test_every_metric_of_the_page_is_exported_by_a_service() -> None:
    with running(Scripted()) as service:
        text = service.metrics.expose()[0].decode()
    declared = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    named = re.findall(r"^\| `(\w+)", PAGE.partition("## Metrics\n")[2], re.MULTILINE)
    assert len(named) > 30
    assert set(named) <= declared
