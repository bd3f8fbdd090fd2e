"""The book of tasks, looked into by one thread while another turns its page."""

from __future__ import annotations

import threading

import pytest
from bul_fakes import asked_task, finished_task

from blatam_kv.bul.tasks import TaskBook


@pytest.fixture
def book() -> TaskBook:
    return TaskBook(max_unfinished=10)


def test_what_ends_before_its_first_row_is_heard_of_is_held_all_the_same(book: TaskBook) -> None:
    ended, goes_on, elsewhere = (asked_task(words) for words in ("bread", "cake", "pie"))
    assert book.add([ended, goes_on, elsewhere])
    book.finish([finished_task(ended)], saved=False)
    book.hold(task.id for task in (ended, goes_on))
    fences = [book.find(task.id, tenant=task.tenant) for task in (ended, goes_on, elsewhere)]
    assert [task and task.fence for task in fences] == [1, 1, 0]


def test_a_task_is_known_at_every_moment_until_its_end_is_written(
    book: TaskBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asked_task("bread")
    assert book.add([task])
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(book.knows(task.id)))
    keep = book._set_unsaved

    def slow(ended: object) -> None:
        other.start()
        other.join(0.2)  # time for one that does not wait to be wrong
        keep(finished)

    monkeypatch.setattr(book, "_set_unsaved", slow)
    finished = finished_task(task)
    book.finish([finished], saved=False)
    other.join()
    assert answers == [True]
    book.saved([finished])
    assert not book.knows(task.id)
