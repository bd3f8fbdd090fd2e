"""``batch``: a list of documents for the running service, followed to its end, fetched as a ZIP."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from blatam_kv.cli.remote import connect
from blatam_kv.cli.report import show
from blatam_kv.client import Client
from blatam_kv.config import Settings
from blatam_kv.errors import InvalidRequest

# How the service knows what kind of list it is.
TYPES = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


def submit(
    url: str,
    settings: Settings,
    file: Path,
    *,
    priority: int | None,
    callback_url: str | None,
    output: Path | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Ask for all documents of a list; 1 if any of them failed."""
    kind = TYPES.get(file.suffix.lower())
    if kind is None:
        raise InvalidRequest(f"{file} is not a .json, .csv or .xlsx list", field="file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}", field="file") from error
    options = {"priority": priority, "callback_url": callback_url}
    given = {name: value for name, value in options.items() if value is not None}
    if given and kind == TYPES[".json"]:
        raise InvalidRequest(f"a JSON list says itself what {' and '.join(given)} is")
    path = "/api/batch" + (f"?{urlencode(given)}" if given else "")
    with connect(url, settings) as client:
        asked = client.request(
            "POST", path, file=content, content_type=kind, idempotency_key=secrets.token_hex(16)
        ).json("batch_id", "total")
        if wait or output is not None:
            return _followed(client, str(asked["batch_id"]), output, as_json)
    del asked["tasks"]
    if as_json:
        show(asked, as_json=True)
    else:
        print(f"batch {asked['batch_id']} of {asked['total']} documents")
        print(f"follow it with: blatam-kv batch follow {asked['batch_id']}")
    return 0


def follow(url: str, settings: Settings, batch: str, *, output: Path | None, as_json: bool) -> int:
    """Wait for the end of a batch; 1 if any of its documents failed."""
    with connect(url, settings) as client:
        return _followed(client, batch, output, as_json)


def cancel(url: str, settings: Settings, batch: str, *, as_json: bool) -> int:
    """End what is not finished of a batch."""
    with connect(url, settings) as client:
        ended = client.request("DELETE", _path(batch)).json("cancelled", "completed")
    del ended["tasks"]
    if as_json:
        show(ended, as_json=True)
    else:
        print(f"{ended['cancelled']} documents cancelled, {ended['completed']} were written")
    return 0


def _path(batch: str) -> str:
    return f"/api/batch/{quote(batch, safe='')}"


def _followed(client: Client, batch: str, output: Path | None, as_json: bool) -> int:
    try:
        status = _watched(client, batch)
    except KeyboardInterrupt:
        print(f"\nit goes on; follow it with: blatam-kv batch follow {batch}", file=sys.stderr)
        raise
    if output is not None:
        _fetch(client, batch, output)
        status["file"] = str(output)
    if as_json:
        show(status, as_json=True)
    else:
        counts = [f"{status[name]} {name}" for name in ("completed", "failed", "cancelled")]
        print(f"batch {batch}: {', '.join(counts)}")
        if output is not None:
            print(f"  {output}")
    return 0 if status["completed"] == status["total"] else 1


def _watched(client: Client, batch: str) -> dict[str, Any]:
    """The last status of a batch; until then a bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    pause = _FIRST_PAUSE
    with tqdm(unit=" documents", file=sys.stderr, disable=None, leave=False) as bar:
        while True:
            status = client.request("GET", f"{_path(batch)}?tasks=0").json("status", "total")
            bar.total = status["total"]
            bar.n = sum(status[name] for name in ("completed", "failed", "cancelled"))
            bar.set_postfix(failed=status["failed"], refresh=False)
            bar.refresh()
            if status["status"] == "completed":
                return status
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, 1.2 * pause)


def _fetch(client: Client, batch: str, output: Path) -> None:
    """The ZIP, whole or not at all."""
    part = output.with_name(f".{output.name}.part")
    try:
        with part.open("wb") as file:
            client.download(f"{_path(batch)}/archive", file)
        part.replace(output)
    except OSError as error:
        raise InvalidRequest(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
