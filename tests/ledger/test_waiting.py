"""What waits to be written: in order, merged, and no more of it than there is room for."""

from __future__ import annotations

import pytest

from mirror.ledger import waiting
from mirror.ledger.notes import BlobGone, BlobKept, ImageKept, Note
from mirror.ledger.uses import UseKey
from mirror.ledger.waiting import Batches, Waiting
from tests.ledger.inventorykit import APP, SIZE, T0, digest


def note(number: int) -> Note:
    return BlobKept(APP, digest(str(number)), SIZE, T0)


def test_what_was_not_written_waits_before_what_has_come_since() -> None:
    waits = Waiting()
    waits.note(note(1))
    waits.note(note(2))
    batches = waits.take()
    assert not waits
    waits.note(note(3))
    waits.put_back(batches)
    assert waits.take().notes == [note(1), note(2), note(3)]


def test_uses_that_were_not_written_are_added_to_those_that_have_come_since() -> None:
    waits = Waiting()
    key, other = (digest("a"), APP), (digest("b"), None)
    waits.use(key, T0 + 5)
    waits.use(key, T0 + 1)
    waits.use(other, T0)
    batches = waits.take()
    waits.use(key, T0 + 2)
    waits.put_back(batches)
    assert waits.take().uses == {key: (T0 + 5, 3), other: (T0, 1)}


def test_what_is_put_back_takes_no_more_room_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "USES_LIMIT", 3)
    waits = Waiting()
    for each in "abc":
        waits.use((digest(each), APP), T0)
    batches = waits.take()
    for each in "cdef":
        waits.use((digest(each), APP), T0 + 1)
    waits.put_back(batches)
    assert waits.take().uses == {
        (digest("a"), APP): (T0, 1),
        (digest("b"), APP): (T0, 1),
        (digest("c"), APP): (T0 + 1, 2),
    }


def test_notes_weigh_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "NOTES_LIMIT", 5)
    waits = Waiting()
    waits.note(ImageKept(APP, digest("i"), SIZE, (digest("a"), digest("b")), T0))
    waits.note(note(1))
    assert waits.lost == 0
    waits.note(ImageKept(APP, digest("j"), SIZE, (digest("a"),), T0))
    assert waits.lost == 1
    waits.note(note(2))
    assert waits.lost == 1
    assert [type(each).__name__ for each in waits.take().notes] == ["ImageKept", "BlobKept", "BlobKept"]
    waits.note(note(3))
    assert waits.lost == 1


def test_what_was_given_and_not_confirmed_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "NOTES_AT_ONCE", 2)
    monkeypatch.setattr(waiting, "USES_AT_ONCE", 2)
    uses: dict[UseKey, tuple[float, int]] = {(digest(each), APP): (T0, 1) for each in "abc"}
    batches = Batches([note(1), note(2), BlobGone(digest("x"))], uses)
    for _ in range(2):
        assert [len(notes) + len(some) for notes, some in batches.parts()] == [2, 1, 2, 1]
    given = batches.parts()
    assert next(given) == ([note(1), note(2)], {})
    batches.confirm()
    given = batches.parts()
    assert next(given) == ([BlobGone(digest("x"))], {})
    next(given)
    batches.confirm()
    assert (batches.notes, list(batches.uses)) == ([], [(digest("c"), APP)])
    list(batches.parts())
    batches.confirm()
    assert not batches
