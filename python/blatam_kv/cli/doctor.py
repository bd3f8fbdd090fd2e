"""``doctor``: what this machine has, what it lacks, and what that means."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from blatam_kv import __version__, _core
from blatam_kv.cli.report import show
from blatam_kv.config import Secret, Settings, did_you_mean
from blatam_kv.devices import DeviceSnapshot
from blatam_kv.errors import Error


def doctor(settings: Settings, *, as_json: bool) -> int:
    """Print the report; 1 if something that every job needs is missing."""
    report = examine(settings)
    show(report, as_json=as_json)
    return 1 if report["problems"] else 0


def examine(settings: Settings) -> dict[str, object]:
    """The report. Everything is asked, nothing assumed; what cannot be found is None."""
    parts = {
        "data_dir": _data_directory(settings.data_dir),
        "keys": _keys(settings),
        "mini": _model(Settings()),
    }
    if settings.model != "mini":
        parts[settings.model] = _model(settings)
    if settings.database_url is not None:
        parts["database"] = _database(settings.database_url)
    if settings.redis_url is not None:
        parts["redis"] = _redis(settings.redis_url, "BUL_REDIS_URL")
    if settings.kv_redis_url is not None:
        parts["kv_redis"] = _redis(settings.kv_redis_url, "BUL_KV_REDIS_URL", blocks=True)
    problems = [f"{name}: {part['reason']}" for name, part in parts.items() if part["reason"]]
    return {
        "blatam_kv": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "compiler": _compiler(),
        "isa": _core.isa(),
        "cuda": _cuda(),
        "extras": _extras(),
        "model": settings.model,
        **parts,
        "problems": problems,
    }


def _compiler() -> str | None:
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return f"{path}: {_first_line([path, '--version'])}"
    return None


def _first_line(command: list[str]) -> str | None:
    lines = _output(command)
    return lines[0] if lines else None


def _output(command: list[str]) -> list[str]:
    """Lines a program prints; none if it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _cuda() -> dict[str, object]:
    from blatam_kv.cuda.probe import status

    version = Path("/proc/driver/nvidia/version")
    driver = None
    if version.is_file() and (said := re.search(r"\s(\d+\.\d+[.\d]*)\s", version.read_text())):
        driver = said[1]
    devices = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        devices = _output(query)
    found = status()
    return {
        "built": found.built,
        "architectures": list(found.architectures),
        "driver": driver,
        "devices": devices,
        "reason": found.reason,
    }


_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+).*;.*extra == [\"'](?P<extra>[\w-]+)[\"']")


def _extras() -> dict[str, dict[str, str | None]]:
    """For each extra its packages with the version found, None for a missing one."""
    try:
        requirements = metadata.requires("blatam-kv") or []
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found and found["name"] != "blatam-kv":
            extras.setdefault(found["extra"], {})[found["name"]] = _version(found["name"])
    return extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _data_directory(path: Path) -> dict[str, object]:
    """Whether the directory can be written, or made; nothing is left behind."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    reason = None
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = (
            f"{nearest} cannot be written ({error.strerror}); choose another with BUL_DATA_DIR "
            "or --data-dir"
        )
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "mode": _mode(path),
        "free_bytes": shutil.disk_usage(nearest).free,
        "reason": reason,
    }


def _mode(path: Path) -> str | None:
    """Who may do what with a file, as chmod takes it."""
    try:
        return f"{stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:
        return None


def _keys(settings: Settings) -> dict[str, object]:
    """Where the secret is and who may read it, and how many keys do what. Makes neither."""
    from blatam_kv.bul.security import open_keys
    from blatam_kv.bul.security.master import FILE

    path = settings.data_dir / FILE
    mode, configured = _mode(path), settings.hmac_secret is not None
    report: dict[str, object] = {
        "secret": "configured" if configured else str(path) if mode else "made at the first start",
        "mode": mode,
        **dict.fromkeys(("tenants", "keys", "working", "verify_only", "expired", "revoked"), 0),
        "reason": None,
    }
    if not configured and mode is None:
        return report
    try:
        keys = open_keys(settings).all()
    except Error as error:  # a weak secret, a file that others can read, one that is damaged
        return report | {"reason": str(error)}
    now = time.time()
    working = [key for key in keys if key.works(now)]
    revoked = [key for key in keys if key.state == "revoked"]
    return report | {
        "tenants": len({key.tenant for key in working}),
        "keys": len(keys),
        "working": len(working),
        "verify_only": sum(key.state == "verify-only" for key in working),
        "expired": len(keys) - len(working) - len(revoked),
        "revoked": len(revoked),
    }


def _database(url: Secret) -> dict[str, object]:
    """Whether the database that is set answers, and the revision of its tables. Its URL may hold a
    password."""
    from blatam_kv.bul.storage import probe

    report: dict[str, object] = {"revision": None, "reason": None}
    try:
        report["revision"] = probe(url.reveal())
    except Error as error:
        report["reason"] = str(error)
    return report


def _redis(url: Secret, setting: str, *, blocks: bool = False) -> dict[str, object]:
    """Whether the Redis that is set can do what nodes ask of it, and is set up for it."""
    from blatam_kv.tiers.redis_probe import examine
    from blatam_kv.truthgpt.prefixes import NAMESPACE

    try:
        if blocks:
            return asdict(examine(url.reveal(), setting, namespace=NAMESPACE, drops=False))
        return asdict(examine(url.reveal(), setting))
    except Error as error:  # without the extra
        return {"reason": str(error)}


def _model(settings: Settings) -> dict[str, object]:
    """Whether the model that the settings choose loads, or its endpoint answers and has it."""
    from blatam_kv.truthgpt import load
    from blatam_kv.truthgpt.protocol import RunsOnDevices

    report: dict[str, object] = {"model": None, "fingerprint": None, "reason": None}
    with ExitStack() as opened:
        try:
            model = load(settings=settings)
            if isinstance(model, AbstractContextManager):
                opened.enter_context(model)
            report["model"] = model.model_id
            if settings.openai_base_url and settings.model == "openai":
                report["base_url"] = settings.openai_base_url
            if settings.local_model and settings.model == "local":
                report["folder"] = str(settings.local_model)
            report["fingerprint"] = model.fingerprint
            report["context_tokens"] = model.context_tokens
            asked: object = model
            if isinstance(model, RunsOnDevices):
                devices = model.devices()
                report["devices"] = {each.gpu: _told(each) for each in devices}
                well = zip(model.models, devices, strict=True)
                asked = next((one for one, each in well if each.in_rotation), model)
            offered = getattr(asked, "offered", ())
            if offered and model.model_id not in offered:
                hint = did_you_mean(model.model_id, offered)
                report["reason"] = (
                    f"the endpoint answers but does not list {model.model_id!r}{hint}; it lists "
                    f"{', '.join(offered[:20])}"
                )
        except Error as error:
            report["reason"] = str(error)
    return report


def _told(device: DeviceSnapshot) -> str:
    return "in the rotation" if device.in_rotation else "left out: it cannot be asked"
