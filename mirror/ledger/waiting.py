"""What was noted and is not written yet: in memory, in bounded space.

A use adds to the uses of the same digest, so that a busy image is one write. Notes keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from mirror.ledger.notes import ImageKept, Note, UseKey

USES_EARLY = 10_000  # digests that were used; so many are to be written at once, which takes 0.2 s
USES_LIMIT = 50_000  # some 20 MB; of more than that the uses are not counted
NOTES_EARLY = 5_000  # digests in notes; so many are to be written at once, which takes 0.2 s
NOTES_LIMIT = 100_000  # some 25 MB; of more than that the notes are lost, for a survey to find what they said
NOTES_AT_ONCE = 500  # digests in notes that are written at once, 20 ms, for which questions wait
USES_AT_ONCE = 1000  # uses, 20 ms

_T = TypeVar("_T")


class Waiting:
    """See the module's text."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._weight = 0  # digests in `_notes`
        self._uses: dict[UseKey, tuple[float, int]] = {}
        self.lost = 0  # notes for which there was no room

    def __bool__(self) -> bool:
        return bool(self._notes or self._uses or self.lost)

    def use(self, key: UseKey, now: float) -> bool:
        """One use more; whether so many wait now that they are to be written."""
        used, hits = self._uses.get(key, (0.0, 0))
        if not hits and len(self._uses) >= USES_LIMIT:
            return False
        self._uses[key] = max(used, now), hits + 1
        return not hits and len(self._uses) == USES_EARLY

    def note(self, note: Note) -> bool:
        """One note more; whether so many wait now that they are to be written."""
        weight = self._weight + _weight(note)
        if weight > NOTES_LIMIT:
            self.lost += 1
            return False
        early = self._weight < NOTES_EARLY <= weight
        self._notes.append(note)
        self._weight = weight
        return early

    def take(self) -> Batches:
        """All that waits; from now on it does not."""
        batches = Batches(self._notes, self._uses)
        self._notes, self._weight, self._uses = [], 0, {}
        return batches

    def put_back(self, batches: Batches) -> None:
        """What was not written waits again, before what has come since."""
        self._notes = batches.notes + self._notes
        self._weight = sum(map(_weight, self._notes))
        uses = batches.uses
        for key, (used, hits) in self._uses.items():
            before, counted = uses.get(key, (0.0, 0))
            if counted or len(uses) < USES_LIMIT:
                uses[key] = max(used, before), hits + counted
        self._uses = uses


class Batches:
    """What is being written: its parts go one after the other, and what is left is what was not written."""

    def __init__(self, notes: list[Note], uses: dict[UseKey, tuple[float, int]]) -> None:
        self.notes = notes
        self.uses = uses

    def parts(self) -> Generator[tuple[list[Note], dict[UseKey, tuple[float, int]]], None, None]:
        """The next part; whoever asks for another one has written it."""
        done = 0
        try:
            for part in parts(self.notes, _weight, NOTES_AT_ONCE):
                yield part, {}
                done += len(part)
        finally:
            self.notes = self.notes[done:]
        while self.uses:
            some = dict(islice(self.uses.items(), USES_AT_ONCE))
            yield [], some
            for key in some:
                del self.uses[key]


def parts(facts: Sequence[_T], weigh: Callable[[_T], int], limit: int) -> Iterator[list[_T]]:
    """The same in parts of this weight, or of a single one that is heavier."""
    part: list[_T] = []
    weight = 0
    for fact in facts:
        more = weigh(fact)
        if part and weight + more > limit:
            yield part
            part, weight = [], 0
        part.append(fact)
        weight += more
    if part:
        yield part


def _weight(note: Note) -> int:
    return 1 + len(note.parts) if isinstance(note, ImageKept) else 1
