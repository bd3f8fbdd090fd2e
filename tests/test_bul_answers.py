"""Answers that outlive the service: a restart is warm, and a disk that fails takes nothing along."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
from bul_fakes import Scripted, running
from server_browser import browsing
from test_bul_service import finished, submit

from blatam_kv.bul.answers import decode, encode
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.config import Settings
from blatam_kv.tiers.files import SystemFiles


def health(service: Service) -> str:
    components = service.reports.cache_health()["components"]
    assert isinstance(components, dict)
    return str(components["persistence"]).partition("; ")[2]


def test_an_answer_is_a_hit_after_a_restart(tmp_path: Path) -> None:
    model = Scripted()
    options = {"data_dir": tmp_path}
    with running(model, **options) as service:
        first = finished(service, submit(service, "bread"))
        assert health(service) == "answers are kept on disk"
    with running(model, **options) as service:
        second = submit(service, "bread")
        assert (second.status, second.cache) == ("completed", "hit")
        assert second.answer == first.answer
        assert service.shelf is not None
        assert service.shelf.warmed == 1
        assert service.clear() == 1
    with running(model, **options) as service:
        assert submit(service, "bread").cache == "miss"
    assert (tmp_path / "answers" / "metadata.json").exists()


def hits(service: Service) -> dict[str, float]:
    """Answered requests by where their answers were."""
    text = service.metrics.expose()[0].decode()
    found = re.findall(r'kv_cache_requests_total{status="hit",tier="(\w+)"} (\S+)', text)
    return {tier: float(count) for tier, count in found}


def test_a_hit_counts_where_it_was(tmp_path: Path) -> None:
    with running(Scripted(), data_dir=tmp_path) as service:
        finished(service, submit(service, "bread"))
        finished(service, submit(service, "cake"))
        order = service.place(parse_request({"query": "bread"}))
        assert hits(service) == {"memory": 0, "disk": 0, "redis": 0}
        assert submit(service, "bread").cache == "hit"
        assert hits(service) == {"memory": 1, "disk": 0, "redis": 0}
        service.pipeline.cache.clear()
        found = service.pipeline.recall(order.digest)
        assert found is not None
        assert found.tier == "disk"
        service.pipeline.cache.clear()
        assert submit(service, "bread").cache == "hit"
        assert submit(service, "bread").cache == "hit"  # in memory again
        assert hits(service) == {"memory": 2, "disk": 1, "redis": 0}
        service.pipeline.cache.clear()
        _, tasks = service.batches.ask(
            [parse_request({"query": query}) for query in ("bread", "cake", "bread")]
        )
        assert [task.cache for task in tasks] == ["hit"] * 3
        assert hits(service) == {"memory": 3, "disk": 3, "redis": 0}


def test_a_conversation_that_is_a_hit_counts_where_it_was(tmp_path: Path) -> None:
    with browsing(Scripted(), data_dir=tmp_path) as browser:
        service = browser.service
        asked = {"messages": [{"role": "user", "content": "bread"}]}
        said = [browser.post("/v1/chat/completions", json=asked).status_code for _ in range(2)]
        service.pipeline.cache.clear()
        for stream in (False, True):
            reply = browser.post("/v1/chat/completions", json=asked | {"stream": stream})
            said.append(reply.status_code)
        assert said == [200] * 4
        assert hits(service) == {"memory": 2, "disk": 1, "redis": 0}


def test_answers_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    assert Settings().cache_persistence
    with running(Scripted(), data_dir=tmp_path, cache_persistence=False) as service:
        finished(service, submit(service, "bread"))
        assert health(service) == "answers are kept in memory"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_leaves_the_service_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    path = taken / "answers"
    with running(Scripted(), cache_persistence=True, cache_persistence_path=path) as service:
        assert finished(service, submit(service, "bread")).status == "completed"
        assert submit(service, "bread").cache == "hit"
        assert "cannot be used" in health(service)
    assert "kept in memory only" in caplog.text


def test_a_full_disk_is_said_by_health_and_answers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Scripted(), cache_persistence=True, data_dir=tmp_path) as service:

        def full(self: SystemFiles, fd: int, pieces: object, offset: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(SystemFiles, "write", full)
            assert finished(service, submit(service, "bread")).status == "completed"
            assert service.shelf is not None
            service.shelf._tier.flush()
            assert health(service).endswith("the disk says: no space")
            assert submit(service, "bread").cache == "hit"


def test_an_answer_comes_back_field_by_field() -> None:
    with running(Scripted()) as service:
        answer = finished(service, submit(service, "pan con ñ")).answer
    assert answer is not None
    data = encode(answer)
    assert decode(data) == answer
    document = json.loads(data)
    for wrong in (
        b"",
        b"[]",
        b"{}",
        data[:-1],
        json.dumps(document | {"more": 1}).encode(),
        json.dumps({k: v for k, v in document.items() if k != "text"}).encode(),
        json.dumps(document | {"usage": None}).encode(),
    ):
        with pytest.raises(ValueError):  # noqa: PT011  # json's errors among them
            decode(wrong)
