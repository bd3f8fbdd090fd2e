"""A server that is there and says nothing fails like one that is away, and soon."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest
from bul_fakes import asked_task, until
from postgres_server import postgres

from blatam_kv.bul.storage import StorageUnavailable, open_storage
from blatam_kv.bul.storage import database as database_module
from blatam_kv.bul.storage.watch import Watch


def test_a_line_that_is_silent_for_too_long_is_cut_and_others_are_not() -> None:
    with closing(Watch()) as watch:
        mine, theirs = socket.socketpair()
        quick, other = socket.socketpair()
        with mine, theirs, quick, other:
            with watch.over(quick.fileno(), seconds=60):
                other.sendall(b"x")
                assert quick.recv(1) == b"x"
            with watch.over(mine.fileno(), seconds=0.01):
                assert mine.recv(1) == b""  # it would wait for ever
            other.sendall(b"y")
            assert quick.recv(1) == b"y"


def test_a_line_whose_number_is_somebody_elses_by_now_is_not_cut() -> None:
    with closing(Watch()) as watch:
        mine, theirs = socket.socketpair()
        number = mine.fileno()
        with watch.over(number, seconds=0.01):
            mine.close()
            innocent, friend = socket.socketpair()
            assert innocent.fileno() == number
            until(lambda: not watch._watched)
        friend.sendall(b"x")
        assert innocent.recv(1) == b"x"
        for each in (theirs, innocent, friend):
            each.close()


def test_a_paused_server_is_unavailable_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres() as server, closing(open_storage(server.database(), node="one")) as one:
        assert one.live()
        one.add([asked_task("bread")])
        server.freeze()
        try:
            with monkeypatch.context() as hasty:  # only with who is to fail
                hasty.setattr(database_module, "_PING_SECONDS", 0.1)
                hasty.setattr(database_module, "_ANSWER_SECONDS", 0.2)
                for call in (
                    lambda: one.add([asked_task("cake")]),
                    lambda: one.tasks(tenant="local"),
                    one.live,
                ):
                    one._database._resting_until = 0.0
                    with pytest.raises(StorageUnavailable):
                        call()
            waiting = [
                thread for thread in threading.enumerate() if thread.name.startswith("bul-w")
            ]
            assert len(waiting) == 1  # the watch alone
        finally:
            server.thaw()

        def back() -> bool:
            try:
                return one.live() and one.tasks(tenant="local").total >= 1
            except StorageUnavailable:
                return False

        until(back)
        assert len(one.take_up()) >= 1


def test_an_archive_may_be_closed_again() -> None:
    with postgres() as server:
        archive = open_storage(server.database(), node="one")
        assert archive.live()
        archive.close()
        archive.close()
