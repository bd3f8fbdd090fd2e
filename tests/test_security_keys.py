"""Secrets and keys: made once, shown once, found again, ended at once."""

from __future__ import annotations

import hmac
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from blatam_kv.bul.caller import Scope
from blatam_kv.bul.security.keys import FILE, ROLES, Key, KeyRing
from blatam_kv.bul.security.master import FILE as MASTER_FILE
from blatam_kv.bul.security.master import Master, load_master
from blatam_kv.config import Secret
from blatam_kv.errors import ConfigError, InvalidRequest

MASTER = Master(bytes(range(32)))


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ring(tmp_path: Path, time: Time) -> KeyRing:
    return KeyRing(tmp_path, MASTER, clock=time, ticks=time)


# ---- the master secret --------------------------------------------------------------------------


def test_the_published_vector_of_a_tenants_salt() -> None:
    salt = "b0ef4fc03c05eb4fdac60fce93e3c4adb59b1bb80cd63cd907e900b6f39b1ef5"
    assert MASTER.tenant_salt("tenant-1").hex() == salt


def test_fields_are_framed() -> None:
    assert MASTER.derive("p", "org_1", "2345") != MASTER.derive("p", "org_12345", "")
    expected = hmac.digest(bytes(range(32)), b"p\x00\x00\x00\x01a", "sha256")
    assert MASTER.derive("p", "a") == expected


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    first = load_master(folder)
    assert load_master(folder).derive("x") == first.derive("x")
    status = (folder / MASTER_FILE).stat()
    assert status.st_mode & 0o777 == 0o600
    assert len((folder / MASTER_FILE).read_text()) == 65
    assert [path.name for path in folder.iterdir()] == [MASTER_FILE]


def test_of_many_who_need_it_first_all_get_the_same(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def first() -> None:
        barrier.wait()
        found.append(load_master(tmp_path).derive("x"))

    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_secret_that_others_can_read_is_refused_with_the_fix(tmp_path: Path) -> None:
    load_master(tmp_path)
    (tmp_path / MASTER_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_master(tmp_path)


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "00" * 33])
def test_a_damaged_secret_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / MASTER_FILE
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="restore it from a backup"):
        load_master(tmp_path)
    assert path.read_text() == text


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("00" * 32)
    (tmp_path / MASTER_FILE).symlink_to(other)
    with pytest.raises(ConfigError, match="cannot use"):
        load_master(tmp_path)


@pytest.mark.parametrize(
    "secret",
    ["short", "a" * 64, "changeme" * 5, "your-secret-key-here-0123456789abcdef", "ab" * 32],
)
def test_a_configured_secret_that_can_be_guessed_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand -hex 32") as caught:
        load_master(tmp_path, Secret(secret))
    assert secret not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_good_configured_secret_is_used_and_not_written(tmp_path: Path) -> None:
    secret = "9f2c1d7e5b8a4c3d6e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f"
    assert load_master(tmp_path, Secret(secret)).derive("x") == Master(
        bytes.fromhex(secret)
    ).derive("x")
    assert not list(tmp_path.iterdir())


def test_it_does_not_show_itself() -> None:
    assert repr(MASTER) == "<Master>"


# ---- keys ---------------------------------------------------------------------------------------


def test_a_key_is_found_by_both_of_its_forms(ring: KeyRing) -> None:
    made = ring.create("acme")
    by_text, by_id = ring.by_api_key(made.api_key), ring.by_id(made.key.key_id)
    assert by_text is not None
    assert by_text == by_id
    assert by_text.caller.tenant == "acme"
    assert by_text.caller.salt == MASTER.tenant_salt("acme")
    assert by_text.caller.scopes == ROLES["writer"]
    assert by_text.signing_key == made.signing_key
    assert len(made.signing_key) == 32


def test_the_default_role_writes_reads_chats_and_sees_metrics() -> None:
    wanted = {Scope.WRITE, Scope.READ, Scope.CHAT, Scope.METRICS}
    assert ROLES["writer"] == wanted


def test_neither_secret_is_on_disk(ring: KeyRing, tmp_path: Path) -> None:
    made = ring.create("acme")
    text = (tmp_path / FILE).read_text()
    assert made.api_key not in text
    assert made.api_key[-43:] not in text
    assert made.signing_key.hex() not in text
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda k: k[:-1],
        lambda k: k + "A",
        lambda k: k[:-1] + "~",
        lambda k: "",
        lambda k: k.upper(),
        lambda k: k[:17] + "B" * 43,
        lambda k: "bkv_ffffffffffff_" + k[17:],
        lambda k: "\udc80" * 60,
    ],
)
def test_another_text_is_no_key(ring: KeyRing, spoil: Any) -> None:
    assert ring.by_api_key(spoil(ring.create("acme").api_key)) is None


def test_a_running_ring_sees_what_another_process_does(tmp_path: Path, time: Time) -> None:
    running = KeyRing(tmp_path, MASTER, clock=time, ticks=time)
    command = KeyRing(tmp_path, MASTER)
    made = command.create("acme")
    time.now += 1
    assert running.by_api_key(made.api_key) is not None
    command.revoke(made.key.key_id)
    time.now += 1
    assert running.by_api_key(made.api_key) is None
    assert running.by_id(made.key.key_id) is None


def test_a_key_that_is_ended_while_the_file_is_being_read_stays_ended(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ring.create("acme")
    (tmp_path / FILE).touch()  # as after another process's change
    read, has_read, go_on = ring._read, threading.Event(), threading.Event()

    def slow() -> list[Key]:
        monkeypatch.setattr(ring, "_read", read)
        found = read()
        has_read.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(ring, "_read", slow)
    reader = threading.Thread(target=ring.refresh)
    reader.start()
    assert has_read.wait(60)
    ender = threading.Thread(target=ring.revoke, args=(made.key.key_id,))
    monkeypatch.setattr(ring, "_one", lambda key_id: made.key)  # which would look as well
    ender.start()
    while '"revoked"' not in (tmp_path / FILE).read_text():
        ender.join(0.01)
    ender.join(0.2)  # time for one that does not wait to be wrong
    go_on.set()
    for thread in (reader, ender):
        thread.join()
    assert ring.by_api_key(made.api_key) is None


def test_a_rotated_key_works_on_for_its_overlap(ring: KeyRing, time: Time) -> None:
    old = ring.create("acme", role="reader", networks=("10.0.0.0/8",), rate=5)
    new = ring.rotate(old.key.key_id, overlap_seconds=100)
    assert new.key.tenant == "acme"
    assert (new.key.role, new.key.networks, new.key.rate) == ("reader", ("10.0.0.0/8",), 5)
    time.now += 99
    assert ring.by_api_key(old.api_key) is not None
    time.now += 1
    assert ring.by_api_key(old.api_key) is None
    assert ring.by_api_key(new.api_key) is not None
    states = {key.key_id: key.state for key in ring.all()}
    assert states == {old.key.key_id: "verify-only", new.key.key_id: "active"}


def test_a_key_ends_with_its_days_and_a_successor_does_not_outlive_it(
    ring: KeyRing, time: Time
) -> None:
    made = ring.create("acme", days=1)
    successor = ring.rotate(made.key.key_id)
    assert successor.key.not_after == made.key.not_after
    time.now += 86_400
    assert ring.by_api_key(made.api_key) is None
    assert ring.by_api_key(successor.api_key) is None
    with pytest.raises(InvalidRequest, match="does not work any more"):
        ring.rotate(made.key.key_id)


def test_two_processes_lose_no_key(tmp_path: Path) -> None:
    rings = [KeyRing(tmp_path, MASTER) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda ring=ring: [ring.create("acme") for _ in range(10)])
        for ring in rings
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyRing(tmp_path, MASTER).all()) == 40


def test_another_master_secret_ends_every_key(tmp_path: Path, ring: KeyRing) -> None:
    made = ring.create("acme")
    other = KeyRing(tmp_path, Master(bytes(32)))
    assert other.by_api_key(made.api_key) is None
    found = other.by_id(made.key.key_id)
    assert found is not None
    assert found.signing_key != made.signing_key


def test_the_local_key_has_no_api_key_and_is_not_listed(ring: KeyRing) -> None:
    local = ring.by_id("local")
    assert local is not None
    assert local.caller.scopes == frozenset(Scope)
    assert local.signing_key == ring.local_signing_key()
    assert ring.all() == []
    for change in (ring.revoke, ring.rotate):
        with pytest.raises(InvalidRequest, match="there is no key 'local'"):
            change("local")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"tenant": ""}, "a tenant is named"),
        ({"tenant": "Acme"}, "a tenant is named"),
        ({"tenant": "a" * 64}, "a tenant is named"),
        ({"tenant": "a/b"}, "a tenant is named"),
        ({"tenant": "local"}, "own tenant"),
        ({"tenant": "a", "role": "writr"}, "did you mean writer"),
        ({"tenant": "a", "networks": ("10.0.0.1/8",)}, "not a network"),
        ({"tenant": "a", "rate": 0}, "at least one"),
        ({"tenant": "a", "days": 0}, "more than 0"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    ring: KeyRing, tmp_path: Path, options: dict[str, Any], hint: str
) -> None:
    with pytest.raises(InvalidRequest, match=hint):
        ring.create(options.pop("tenant"), **options)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{}]}', "\xff"],
)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=FILE):
        KeyRing(tmp_path, MASTER)
    assert (tmp_path / FILE).read_bytes() == text.encode("latin-1")


def test_a_role_nobody_knows_is_an_error_not_a_right(ring: KeyRing, tmp_path: Path) -> None:
    ring.create("acme")
    document = json.loads((tmp_path / FILE).read_text())
    document["keys"][0]["role"] = "god"
    (tmp_path / FILE).write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=FILE):
        KeyRing(tmp_path, MASTER)
