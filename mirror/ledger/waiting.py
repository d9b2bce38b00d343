"""What was noted and is not written yet: in memory, in bounded space.

A use adds to the uses of the same digest, so that a busy image is one write. Notes keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mirror.ledger.notes import ImageBack, ImageKept, Note
from mirror.ledger.uses import UseKey

USES_EARLY = 10_000  # digests that were used; so many are to be written at once, which takes 0.4 s
USES_LIMIT = 50_000  # some 20 MB; of more than that the uses are not counted
NOTES_EARLY = 5_000  # digests in notes; so many are to be written at once, which takes 0.2 s
NOTES_LIMIT = 100_000  # some 25 MB; of more than that the notes are lost, for a survey to find what they said
NOTES_AT_ONCE = 50  # notes between two looks at the clock, 5 ms
USES_AT_ONCE = 100  # uses, 2 ms


class Waiting:
    """See the module's text."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._weight = 0  # digests in `_notes`
        self._uses: dict[UseKey, tuple[float, int]] = {}
        self.lost = 0  # notes for which there was no room

    def __bool__(self) -> bool:
        return bool(self._notes or self._uses or self.lost)

    def use(self, key: UseKey, now: float, hits: int = 1) -> bool:
        """One use more; whether so many wait now that they are to be written."""
        is_new = key not in self._uses
        if is_new and len(self._uses) >= USES_LIMIT:
            return False
        used, before = self._uses.get(key, (0.0, 0))
        self._uses[key] = max(used, now), before + hits
        return is_new and len(self._uses) == USES_EARLY

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
        uses = dict(batches.uses)  # which a thread may still be reading, if nobody has waited for it
        for key, (used, hits) in self._uses.items():
            before, counted = uses.get(key, (0.0, 0))
            if key in uses or len(uses) < USES_LIMIT:
                uses[key] = max(used, before), hits + counted
        self._uses = uses


class Batches:
    """What is being written, in the order of writing: notes, then uses."""

    def __init__(self, notes: list[Note], uses: dict[UseKey, tuple[float, int]]) -> None:
        self.notes = notes
        self.uses = uses
        self._notes = 0  # how many were given since the last `confirm`
        self._uses: list[UseKey] = []

    def __bool__(self) -> bool:
        return bool(self.notes or self.uses)

    def parts(self) -> Iterator[tuple[list[Note], dict[UseKey, tuple[float, int]]]]:
        """What was not confirmed, in small parts."""
        self._notes, self._uses = 0, []
        for at in range(0, len(self.notes), NOTES_AT_ONCE):
            notes = self.notes[at : at + NOTES_AT_ONCE]
            self._notes += len(notes)
            yield notes, {}
        uses = iter(self.uses.items())
        while some := dict(islice(uses, USES_AT_ONCE)):
            self._uses += some
            yield [], some

    def confirm(self) -> None:
        """What `parts` has given is written."""
        self.notes = self.notes[self._notes :]
        for key in self._uses:
            del self.uses[key]


def _weight(note: Note) -> int:
    return 1 + len(note.parts) if isinstance(note, ImageKept | ImageBack) else 1
