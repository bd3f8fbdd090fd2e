"""Which devices a model runs on, as the settings say, and what reads them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from blatam_kv.config import Settings
from blatam_kv.devices import Balancer, Devices, DeviceSnapshot, Monitor, NvmlMonitor, Watch
from blatam_kv.errors import ConfigError, DeviceUnavailable, MissingExtra
from blatam_kv.truthgpt.protocol import Continues, RunsOnDevices, TruthGPT
from blatam_kv.truthgpt.replicas import ContinuingReplicas, Replicas

log = logging.getLogger("blatam_kv.truthgpt")

AUTO, CPU = "auto", "cpu"


def on_devices(settings: Settings, make: Callable[[str], TruthGPT], *, torch: bool) -> TruthGPT:
    """The model on the devices that the settings name: a replica each, or itself on a single one.

    make: a model on a device. torch: whether it can run on what torch can; else it runs on the CPU.
    The replicas share what their owner gives them to keep prefixes in, so none is nearer to one.
    Raises ConfigError for a device that is not there, MissingExtra without torch.
    """
    if settings.local_device != CPU:
        raise ConfigError("devices and local_device are both set; name the device in devices alone")
    devices = _named(settings, torch=torch)
    for device in devices:
        _check(device, torch=torch)
    if len(devices) == 1:
        return make(devices[0])
    models = {name: make(name.partition("/")[0]) for name in _told_apart(devices)}
    return _replicas(models, _monitor(models), affinity=False)


def at_endpoints(settings: Settings) -> TruthGPT:
    """The model behind the endpoint of the settings, or behind several: each keeps prefixes of its
    own. Raises ConfigError."""
    from blatam_kv.truthgpt.openai import from_settings

    if settings.devices:
        raise ConfigError(
            "devices are for models that run here; several endpoints go into openai_base_url, with "
            "commas between them"
        )
    urls = [url.strip() for url in (settings.openai_base_url or "").split(",") if url.strip()]
    if len(urls) < 2:
        return from_settings(settings)
    # One answer is tried at two of them, and may take as many attempts as with one.
    attempts = max(1, settings.openai_attempts // 2)
    first = from_settings(replace(settings, openai_base_url=urls[0]), attempts=attempts)
    others = [
        from_settings(
            replace(settings, openai_base_url=url), replica_of=first.base_url, attempts=attempts
        )
        for url in urls[1:]
    ]
    endpoints = (first, *others)
    if len({endpoint.base_url for endpoint in endpoints}) < len(endpoints):
        raise ConfigError("openai_base_url names an endpoint twice")
    names = _told_apart([urlsplit(endpoint.base_url).netloc for endpoint in endpoints])
    return _replicas(dict(zip(names, endpoints, strict=True)), None, affinity=True)


@contextmanager
def watched(
    model: TruthGPT, settings: Settings
) -> Iterator[Callable[[], Sequence[DeviceSnapshot]]]:
    """What is seen of a model's devices while the body runs: of several what the model sees itself, of
    a single GPU what NVML reads, of the CPU and of one endpoint nothing."""
    if isinstance(model, RunsOnDevices):
        yield model.devices
        return
    names: tuple[str, ...] = ()
    if settings.model == "local":
        names = _named(settings, torch=True) or (settings.local_device,)
    monitor = _monitor(dict.fromkeys(names))
    if monitor is None:
        yield tuple
        return
    with monitor:
        balancer = Balancer(Devices(names, monitor))
        with Watch(balancer, probe=monitor.read):
            yield lambda: [replace(each, balanced=False) for each in balancer.snapshots()]


def _named(settings: Settings, *, torch: bool) -> tuple[str, ...]:
    """The devices of the settings, with every GPU by its name for auto."""
    devices = settings.devices
    if AUTO in devices:
        if len(devices) > 1:
            raise ConfigError("devices is auto or a list of names, not both")
        devices = tuple(f"cuda:{number}" for number in range(_gpus() if torch else 0)) or (CPU,)
    return devices


def _replicas(
    models: Mapping[str, TruthGPT], monitor: Monitor | None, *, affinity: bool
) -> Replicas:
    go_on = all(isinstance(model, Continues) for model in models.values())
    kind = ContinuingReplicas if go_on else Replicas
    return kind(models, monitor, affinity=affinity)


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number behind a slash from the second of the same on."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return found


def _check(device: str, *, torch: bool) -> None:
    if not torch and device != CPU:
        raise ConfigError(f"this model runs on the CPU alone, not on {device}")
    kind, _, number = device.partition(":")
    if kind == "cuda" and torch:
        count = _gpus()
        if (int(number) if number.isdecimal() else 0) >= count:
            raise ConfigError(f"there is no {device}; torch sees {count or 'no'} GPUs here")


def _gpus() -> int:
    """How many GPUs torch sees."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", extra="local") from error
    return torch.cuda.device_count()


def _monitor(names: Mapping[str, object]) -> NvmlMonitor | None:
    """What reads the GPUs among these; nothing does where the extra or the driver is missing."""
    devices = {name.partition("/")[0] for name in names}
    gpus = sorted(device for device in devices if device.startswith("cuda"))
    if not gpus:
        return None
    import torch

    # By UUID: torch numbers GPUs by speed and by what CUDA_VISIBLE_DEVICES leaves, NVML by their bus.
    uuids = {gpu: f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in gpus}
    try:
        return NvmlMonitor(uuids)
    except (MissingExtra, DeviceUnavailable) as error:
        log.warning("GPUs are balanced by what they are given alone: %s", error)
        return None
