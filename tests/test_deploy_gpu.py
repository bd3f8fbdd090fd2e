"""What is shipped for nodes with GPUs, read against what it is laid over: no CI has the GPUs to run it."""

from __future__ import annotations

import re

import yaml
from test_deploy import COMPOSE, DEPLOY, of_kind
from test_extras import EXTRAS

from blatam_kv.config import load

GPU = yaml.safe_load((DEPLOY / "compose" / "gpu.yaml").read_text())
PATCH = yaml.safe_load((DEPLOY / "kubernetes" / "gpu" / "patch.yaml").read_text())


def test_compose_gives_each_node_gpus_of_its_own() -> None:
    taken: list[str] = []
    assert GPU["services"].keys() == {name for name in COMPOSE["services"] if "node" in name}
    for service in GPU["services"].values():
        (asked,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (asked["driver"], asked["capabilities"]) == ("nvidia", ["gpu"])
        taken += asked["device_ids"]
        settings = load(environ=service["environment"])
        assert (settings.model, settings.devices) == ("local", ("auto",))
        (volume,) = service["volumes"]
        mounted = volume.split(":")[1]
        assert str(settings.local_model).startswith(f"{mounted}/")
    assert len(taken) == len(set(taken)) == 4


def test_the_image_for_gpus_stands_on_the_other_and_adds_extras_that_there_are() -> None:
    (dockerfile,) = {service["build"]["dockerfile"] for service in GPU["services"].values()}
    text = (DEPLOY.parent / dockerfile).read_text()
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == [COMPOSE["x-node"]["image"]]
    (extras,) = re.findall(r'"blatam-kv\[([\w,]+)\]"', text)
    assert set(extras.split(",")) == {"local", "gpu"} <= set(EXTRAS)
    assert text.rstrip().endswith("USER 10001")


def test_the_patch_fits_the_nodes_and_asks_for_gpus() -> None:
    (nodes,) = of_kind("StatefulSet")
    theirs, ours = nodes["spec"]["template"]["spec"], PATCH["spec"]["template"]["spec"]
    (container,), (patched,) = theirs["containers"], ours["containers"]
    assert patched["name"] == container["name"]
    assert patched["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert patched["resources"]["requests"].keys() <= container["resources"]["requests"].keys()
    settings = load(environ={each["name"]: each["value"] for each in patched["env"]})
    assert (settings.model, settings.devices) == ("local", ("auto",))
    (mount,), (volume,) = patched["volumeMounts"], ours["volumes"]
    assert mount["name"] == volume["name"]
    assert mount["readOnly"] is True
    assert str(settings.local_model).startswith(f"{mount['mountPath']}/")
    assert mount["mountPath"] not in {each["mountPath"] for each in container["volumeMounts"]}
