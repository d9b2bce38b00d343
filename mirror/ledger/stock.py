"""The inventory's rows wherever they can be kept: in the file, or in memory while there is no writing it.

1. All of it blocks, and belongs to one thread. Whatever cannot be done raises NotKept.
2. A file that cannot be written (a full disk, just when something must be deleted; no folder; read-only) is
   read into memory, and memory is used, until the file can be written again: then it gets what is in memory.
3. A file is `complete` if a survey has ended, nothing noted since was lost, and it was closed well. Else
   there may be an image that is not here, and what it names looks as if nothing named it.
4. So that it is in use is on the disk before anything else is; and a file that was closed well, and in which
   that cannot be written, is deleted: a crash would leave one that is believed, and is wrong.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from mirror.ledger import survey
from mirror.ledger.decision import LeftError
from mirror.ledger.facts import SeenLink, Surveyed
from mirror.ledger.file import DatabaseFile, NotKept
from mirror.ledger.inventoryschema import INVENTORY
from mirror.ledger.marks import Marks
from mirror.ledger.notes import write_notes
from mirror.ledger.recall import copy, recall, size
from mirror.ledger.rows import Rows
from mirror.ledger.tables import transaction
from mirror.ledger.uses import write_uses
from mirror.ledger.waiting import Batches

ROOM_FACTOR = 4  # times its size: how much room there must be before memory is written to the file
STEP_SECONDS = 0.025  # of work in one transaction, for which questions wait; writing it takes as long again
CHANGES_BETWEEN = 6000  # rows changed between two looks at the journal; up to 3000 pages in it

_T = TypeVar("_T")
_F = TypeVar("_F")
See = Callable[[Rows, Marks, Sequence[_F]], None]

log = structlog.get_logger()


class SurveyLost(Exception):
    """The file in which the survey began is another one now, or there was none: begin again."""


class Stock:
    """See the module's text. `path` None: in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = DatabaseFile(path, INVENTORY) if path is not None else None
        self._memory: sqlite3.Connection | None = None
        self._token = ""  # of the file in use
        self._trusted = False  # nothing was lost since the last survey
        self._marks: Marks | None = None
        self._sweep: survey.Sweep | None = None
        self._unsynced = False  # whether the file says that it is in use, and the disk may not
        self._changes = 0  # of the connection, at the last look at the journal
        self.complete = False  # for any thread
        self.replaced = 0  # how often other rows had to do; for any thread

    @property
    def in_memory(self) -> bool:
        """Whether it should be in a file and is not. For any thread."""
        return self._file is not None and self._memory is not None

    def open(self) -> None:
        """Open what there is."""
        self.change(lambda _rows: None)

    def close(self) -> None:
        """Close it; well, if nothing was lost."""
        if self.in_memory:
            self.come_back()
        if self._trusted:
            with suppress(NotKept):
                self.change(lambda rows: rows.connection.execute("UPDATE state SET running = 0"))
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._file is not None:
            self._file.close()

    def distrust(self) -> None:
        """Something that was noted is lost; it may be what a survey that is under way has missed."""
        self._trusted = self.complete = False
        self._marks = self._sweep = None

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """The result of work that writes nothing."""
        return self._run(work)

    def change(self, work: Callable[[Rows], _T]) -> _T:
        """The result of work that writes all or nothing. It may be done twice, in different files."""

        def whole(connection: sqlite3.Connection) -> _T:
            with transaction(connection):
                self._look(connection)
                return work(Rows(connection, self._marks))

        try:
            result = self._run(whole)
        except LeftError:  # it is not done; but the marks have it that it is
            self._marks = self._sweep = None
            raise
        if self._unsynced:
            self._sync()
        return result

    def trim(self) -> None:
        """Forget some of the oldest moves of tags, if there are too many."""
        self.change(lambda rows: survey.trim_history(rows.connection))

    def write(self, batches: Batches, *, complete: bool | None = None) -> None:
        """Write some of what was noted: what takes no longer than STEP_SECONDS, but something.

        `complete`: what is not known is not there; else that is decided here.
        """

        def work(rows: Rows) -> None:
            end = time.monotonic() + STEP_SECONDS
            for notes, uses in batches.parts():
                write_notes(rows, notes)
                write_uses(rows, uses, complete=self.complete if complete is None else complete)
                if time.monotonic() >= end:
                    break

        self.change(work)
        batches.confirm()

    def checkpoint(self) -> None:
        """Empty the journal, if there is much in it, as far as that can be done now."""
        if self._memory is not None or self._file is None or not self._file.is_open:
            return

        def work(connection: sqlite3.Connection) -> None:
            changes = connection.total_changes
            if not 0 <= changes - self._changes < CHANGES_BETWEEN:
                self._changes = changes
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

        with suppress(NotKept):
            self._run(work)

    def begin_survey(self, now: float) -> None:
        """A survey begins; the one before, if it has not ended, is lost."""
        self._sweep = None
        self._marks = self.change(lambda rows: survey.begin(rows.connection, now))

    def see(self, see: See[_F], facts: Sequence[_F], at_once: int) -> list[_F]:
        """Do some of it, at least `at_once`, in STEP_SECONDS; returns the others. Raises SurveyLost."""

        def work(rows: Rows, marks: Marks) -> int:
            end, at = time.monotonic() + STEP_SECONDS, 0
            while at < len(facts) and time.monotonic() < end:
                see(rows, marks, facts[at : at + at_once])
                at += at_once
            return at

        return list(facts[self._survey(work) :])

    def look_for(self, facts: Sequence[SeenLink]) -> list[SeenLink]:
        """Those images of which it is not known what they name. Raises SurveyLost."""
        return self._survey(lambda rows, marks: survey.see_images(rows, marks, facts))

    def end_survey(self) -> Surveyed | None:
        """Do a part of the end; None: there is more to be done. Raises SurveyLost."""

        def work(rows: Rows, marks: Marks) -> Surveyed | None:
            if self._sweep is None:
                self._sweep = survey.Sweep(marks)
            if self._sweep.step(rows):
                return None
            rows.connection.execute("UPDATE state SET complete = 1")
            return self._sweep.result

        try:
            result = self._survey(work)
        except NotKept:
            self._sweep = None  # what it has counted may not have been done
            raise
        if result is not None:
            self._marks = self._sweep = None
            self._trusted = self.complete = True
        return result

    def come_back(self) -> bool:
        """Write what is in memory to the file, if that can be done; whether it could."""
        if self._file is None or self._memory is None or self._path is None:
            return False
        memory = self._memory
        try:
            if shutil.disk_usage(self._path.parent).free < ROOM_FACTOR * size(memory):
                return False
            token: str = self._file.run(lambda connection: _state(connection)[0])
            ours = self.complete or token == self._token
            if ours:
                self._file.run(lambda connection: copy(memory, connection))
            self._memory = None
            self.change(lambda _rows: None)
            if not ours:
                self.distrust()  # what was noted in memory is lost
        except (OSError, NotKept):
            self._memory = memory
            return False
        memory.close()
        log.info("inventory.kept", file=str(self._path))
        return True

    def _survey(self, work: Callable[[Rows, Marks], _T]) -> _T:
        def whole(rows: Rows) -> _T:
            if rows.marks is None:
                raise SurveyLost
            return work(rows, rows.marks)

        return self.change(whole)

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._file is not None and self._memory is None:
            self._renew(self._file)
            try:
                return self._file.run(work)
            except NotKept as error:
                if error.busy:
                    raise
                log.warning("inventory.not_kept", file=str(self._path), reason=str(error))
        if self._memory is None:
            self._memory = recall(self._path, self._file, INVENTORY)
            self._discard(self._memory)
        try:
            return work(self._memory)
        except sqlite3.Error as error:
            raise NotKept(str(error)) from error

    def _renew(self, file: DatabaseFile) -> None:
        """Somebody has deleted the file, or put another there: what was known of the tree is not in it."""
        if file.renew():
            self.replaced += 1
            self._token = ""
            self.distrust()

    def _discard(self, memory: sqlite3.Connection) -> None:
        """Delete the file that `memory` was read from, if the next start would believe it."""
        _, complete, running = _state(memory)
        if complete and not running and self._file is not None:
            with suppress(NotKept):  # on a disk that cannot be written at all, where nothing else changes
                self._file.discard()

    def _sync(self) -> None:
        """Have on the disk what was committed: a commit alone does not survive a power cut."""
        self._unsynced = False
        if self._file is not None and self._memory is None:
            with suppress(NotKept):
                self._file.run(
                    lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                )

    def _look(self, connection: sqlite3.Connection) -> None:
        """Is it the file of before, and can it be trusted?"""
        token, complete, running = _state(connection)
        if token != self._token:
            self.replaced += self._token != ""
            self._token = token
            self._trusted = not running
            self._marks = self._sweep = None
        if not running:
            connection.execute("UPDATE state SET running = 1")
            self._unsynced = True
        self.complete = bool(complete) and self._trusted


def _state(connection: sqlite3.Connection) -> tuple[str, int, int]:
    state: tuple[str, int, int] = connection.execute("SELECT token, complete, running FROM state").fetchone()
    return state
