"""What registry:2 remembers of what it keeps: `scheduler-state.json` in its root directory.

A map of `repository@digest` to `{"Key", "ExpiryData": RFC 3339, "EntryType": 0 or 1}`,
written when something is fetched, never when it is used. An entry that makes no sense is passed over.

It is read in pieces: json.loads of a large one would keep all other threads waiting for as long as it takes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO

import structlog

from mirror.ledger.facts import Use
from mirror.oci.digest import Digest, DigestError
from mirror.oci.names import InvalidNameError, Repository

FILE = "scheduler-state.json"
LIFETIME = 168 * 3600.0  # seconds; registry:2's `proxy.ttl` where none is configured
ENTRIES_LIMIT = 1_000_000  # some 250 MB of file; more than that nobody keeps in one directory
BATCH = 250  # entries read at once, 4 ms
PIECE = 64 << 10  # bytes, of some 250 entries
LONGEST = 64 << 10  # characters of a key with its value; usual ones have 250

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

log = structlog.get_logger()


def uses(file: BinaryIO, now: float, lifetime: float = LIFETIME) -> Iterator[list[Use]]:
    """When each was fetched: `lifetime` seconds before it expires, and before `now`. BATCH entries at a time.

    Blocks. Of a file that makes no sense, what stands before that place; the log says so. Raises OSError.
    """
    entries = found = 0
    batch: list[Use] = []
    try:
        for key, entry in _entries(file):
            entries += 1
            use = _use(key, entry, now, lifetime)
            if use is not None:
                batch.append(use)
            if entries % BATCH == 0:
                found += len(batch)
                yield batch
                batch = []
            if entries >= ENTRIES_LIMIT:
                break
    except (ValueError, RecursionError) as error:
        log.warning("scheduler.ignored", file=FILE, reason=str(error), entries=entries)
    else:
        log.info("scheduler.read", file=FILE, entries=entries, used=found + len(batch))
    yield batch


def _use(key: str, entry: object, now: float, lifetime: float) -> Use | None:
    expiry = entry.get("ExpiryData") if isinstance(entry, dict) else None
    name, _, digest = key.rpartition("@")
    if not isinstance(expiry, str):
        return None
    try:
        when = datetime.fromisoformat(expiry)
        used = min(when.timestamp() - lifetime, now)
        return Use(Repository.parse(name), Digest.parse(digest), used) if when.tzinfo and used > 0 else None
    except (ValueError, OverflowError, InvalidNameError, DigestError):
        return None


def _entries(file: BinaryIO) -> Iterator[tuple[str, object]]:
    """The members of the file's JSON object, in order. Raises ValueError, RecursionError, OSError."""
    text = _Text(file)
    text.take("{")
    if text.peek() == "}":
        return
    while True:
        key = text.value()
        if not isinstance(key, str):
            raise ValueError("a key is no text")
        text.take(":")
        yield key, text.value()
        if text.peek() == "}":
            return
        text.take(",")


class _Text:
    """A file's text from some place on, as far as it was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0
        self._is_whole = False  # the file ends with this text

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._is_whole:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, sign: str) -> None:
        """Go past this character, which must come next."""
        if self.peek() != sign:
            raise ValueError(f"{sign!r} is missing")
        self._at += 1

    def value(self) -> object:
        """The value that comes next."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if self._is_whole:
                    raise
            else:
                if end < len(self._text) or self._is_whole:  # else a number may go on
                    self._at = end
                    return value
            if len(self._text) - self._at > LONGEST:
                raise ValueError("a value is too long, or none")
            self._more()

    def _more(self) -> None:
        piece = self._file.read(PIECE)
        self._is_whole = not piece
        self._text = self._text[self._at :] + self._decode(piece, final=self._is_whole)
        self._at = 0
