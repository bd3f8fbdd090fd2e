"""What is shipped for systemd, compose and Kubernetes: read here, since no CI can run them all.

Names of settings, paths of probes, ports, labels and files are compared with what there is; that
Docker or Kubernetes start it is not claimed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bul_fakes import Scripted, running

from blatam_kv.config import VARIABLES, Settings
from blatam_kv.config.sources import yaml_loader
from blatam_kv.gateway.configuration import load
from blatam_kv.server.bul import doors

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
NODES = ("node-1", "node-2", "node-3")


def manifests() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in manifests() if document["kind"] == kind]


def texts(value: object) -> Iterator[str]:
    """Every text in a document, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (*texts(key), *texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def test_no_key_is_given_twice() -> None:
    for path in sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]):
        assert list(yaml.load_all(path.read_text(), yaml_loader())), path


def test_every_setting_that_is_named_exists() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json"]
    named = {name for path in files for name in re.findall(r"\bBUL_[A-Z_]+", path.read_text())}
    assert len(named) > 8
    assert named <= set(VARIABLES)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_every_path_that_is_asked_is_served(path: str) -> None:
    with running(Scripted()) as service:
        assert path in {door.path for door in doors(service)}


# ---- systemd ------------------------------------------------------------------------------------


def test_the_unit_stops_a_node_no_sooner_than_it_drains() -> None:
    unit = (DEPLOY / "systemd" / "blatam-kv@.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
    assert int(seconds) > Settings().drain_seconds
    assert "\nKillSignal=SIGTERM\n" in unit


def test_the_units_command_is_one_that_there_is() -> None:
    unit = (DEPLOY / "systemd" / "blatam-kv@.service").read_text()
    (command,) = re.findall(r"^ExecStart=/opt/blatam-kv/bin/(.*)$", unit, re.MULTILINE)
    command = command.replace("%i", "8002").replace("${STATE_DIRECTORY}", "/nowhere")
    from blatam_kv.cli.parser import make_parser

    args = make_parser().parse_args(command.split()[1:])
    assert (args.command, args.api_host, args.api_port) == ("serve", "127.0.0.1", "8002")


# ---- compose ------------------------------------------------------------------------------------


def test_compose_mounts_what_there_is_and_secrets_that_its_top_makes() -> None:
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source
        for name in service.get("secrets", ()):
            assert name in COMPOSE["secrets"]
        for needed in service.get("depends_on", ()):
            assert needed in COMPOSE["services"]
    for secret in COMPOSE["secrets"].values():
        assert secret["file"] in text.partition("name: blatam-kv")[0]
    assert "deploy/compose/secrets" in (ROOT / ".dockerignore").read_text()
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text()


def test_nginx_and_prometheus_of_compose_know_every_node() -> None:
    assert set(NODES) <= set(COMPOSE["services"])
    nginx = (DEPLOY / "compose" / "nginx.conf").read_text()
    ours = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    bul, gateway = ours["scrape_configs"]
    assert bul["static_configs"] == [{"targets": [f"{node}:8002" for node in NODES]}]
    assert gateway["static_configs"] == [{"targets": ["gateway:8000"]}]
    assert "gateway" in COMPOSE["services"]
    for node in NODES:
        assert f"server {node}:8002 " in nginx
        environment = COMPOSE["services"][node]["environment"]
        (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
        assert environment["BUL_TRUSTED_PROXIES"] == network["subnet"]
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert ours["rule_files"] == shipped["rule_files"]
    jobs = [job["job_name"] for job in shipped["scrape_configs"]]
    assert [job["job_name"] for job in ours["scrape_configs"]] == jobs == ["bul", "gateway"]


def test_the_gateways_that_are_shipped_are_configured_as_it_understands() -> None:
    (kubernetes,) = (
        each["data"]["gateway.yaml"]
        for each in of_kind("ConfigMap")
        if "gateway.yaml" in each["data"]
    )
    for text in (kubernetes, (DEPLOY / "compose" / "gateway.yaml").read_text()):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            found = load(Path(file.name), {})
        (bul,) = found.systems
        assert (found.host, found.port, bul.name, bul.host) == ("0.0.0.0", 8000, "bul", "keep")


def test_the_image_installs_extras_that_there_are_and_keeps_no_rights() -> None:
    from test_extras import EXTRAS

    text = (DEPLOY / "compose" / "Dockerfile").read_text()
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(EXTRAS)
    assert re.search(r"^USER 10001$", text, re.MULTILINE)


# ---- Kubernetes ---------------------------------------------------------------------------------


def test_selectors_find_the_nodes_and_ports_have_the_names_they_are_asked_by() -> None:
    (nodes,) = of_kind("StatefulSet")
    (gateways,) = of_kind("Deployment")
    configs = {each["metadata"]["name"]: each["data"] for each in of_kind("ConfigMap")}
    services = of_kind("Service")
    assert nodes["spec"]["serviceName"] in {service["metadata"]["name"] for service in services}
    ports = {nodes["metadata"]["name"]: configs["blatam-kv"]["BUL_API_PORT"]}
    ports[gateways["metadata"]["name"]] = "8000"
    for pods in (nodes, gateways):
        template = pods["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        assert pods["spec"]["selector"]["matchLabels"].items() <= labels
        (container,) = template["spec"]["containers"]
        (port,) = container["ports"]
        ours = [each["spec"] for each in services if each["spec"]["selector"].items() <= labels]
        assert ours
        assert {each["targetPort"] for one in ours for each in one["ports"]} == {port["name"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == port["name"]
            assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
        assert str(port["containerPort"]) == ports[pods["metadata"]["name"]]
        scraped = template["metadata"]["annotations"]
        assert scraped == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": ports[pods["metadata"]["name"]],
        }
        assert {each["configMapRef"]["name"] for each in container["envFrom"]} <= configs.keys()
        mounted = [
            each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each
        ]
        assert set(mounted) <= configs.keys()
    (budget,) = of_kind("PodDisruptionBudget")
    selected = budget["spec"]["selector"]["matchLabels"]
    assert selected == nodes["spec"]["selector"]["matchLabels"]
    (scaled,) = of_kind("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == nodes["metadata"]["name"]


def test_a_pod_may_do_nothing_it_need_not_and_has_time_to_drain() -> None:
    for pods in (*of_kind("StatefulSet"), *of_kind("Deployment")):
        pod = pods["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > Settings().drain_seconds
        mounts = {volume["name"] for volume in pod["volumes"]}
        claims = pods["spec"].get("volumeClaimTemplates", ())
        mounts |= {claim["metadata"]["name"] for claim in claims}
        for container in (*pod["containers"], *pod["initContainers"]):
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounts


def test_no_secret_stands_in_what_is_shipped() -> None:
    for text in texts([COMPOSE, *manifests()]):
        assert not re.search(r"://[^/@ ]*:[^$@ ]+@", text), text


# ---- on this machine ----------------------------------------------------------------------------


def test_a_cluster_on_this_machine_survives_the_node_that_wrote() -> None:
    command = [sys.executable, str(DEPLOY / "cluster.py"), "--nodes", "2", "--check"]
    done = subprocess.run(
        [*command, "--port", "0", "--prometheus-port", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    shown = [line.split()[0] for line in lines[:7]]
    assert shown == ["Redis", "PostgreSQL", "node", "node", "nginx", "gateway", "Prometheus"]
    assert re.fullmatch(r"node \d was killed", lines[-2])
    assert lines[-1].startswith("asked again: 200, blatam-kv; hit")
    assert done.stderr == ""
