"""The upstream's last word about each tag: in memory, and in the ledger across restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cachetools import LRUCache

from mirror.cache.leases import Leases
from mirror.cache.memory import bare
from mirror.ledger.records import TagRecord
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError

TAGS = 10_000  # tags whose word is in memory; the ledger has the others
WAITING_TAGS = 64  # of one manifest; each costs some milliseconds to write. The newest are kept.

Key = tuple[Repository, Tag]


@dataclass(frozen=True, slots=True)
class Word:
    """What the upstream said at `checked` (time.time()): where the tag points, or a refusal.

    `descriptor` is there for a digest only until the next start. A word without `digest` is a refusal.
    """

    checked: float
    digest: Digest | None = None
    descriptor: Descriptor | None = None
    refusal: RegistryError | None = None

    def refused(self) -> RegistryError:
        """The refusal, as a new exception."""
        return bare(self.refusal or RegistryError(ErrorCode.MANIFEST_UNKNOWN))


class Remembering(Protocol):
    """What is asked of a ledger: see `ledger.sqlite.Ledger`."""

    async def tag(self, repository: Repository, tag: Tag) -> TagRecord | None: ...

    def note_tag(self, repository: Repository, tag: Tag, record: TagRecord) -> None: ...


class Tags:
    """See the module's text. `leases` on what a tag is end when the upstream says so anew."""

    def __init__(self, ledger: Remembering, leases: Leases | None = None) -> None:
        self._ledger = ledger
        self._leases = leases or Leases()
        self._words: LRUCache[Key, Word] = LRUCache(TAGS)
        self._waiting: LRUCache[tuple[Repository, Digest], dict[Tag, None]] = LRUCache(TAGS)

    def known(self, repository: Repository, tag: Tag) -> Word | None:
        """The last word, if it is in memory."""
        return self._words.get((repository, tag))

    async def word(self, repository: Repository, tag: Tag) -> Word | None:
        """The last word; None when the upstream was never asked, or nobody remembers."""
        word = self._words.get((repository, tag))
        if word is not None:
            return word
        record = await self._ledger.tag(repository, tag)
        word = self._words.get((repository, tag))  # it may have been said meanwhile
        if word is None and record is not None:
            word = self._words[repository, tag] = _from_record(record)
        return word

    def points_to(self, repository: Repository, tag: Tag, descriptor: Descriptor, now: float) -> None:
        """The upstream says that the tag points there; it is written once that manifest is kept."""
        digest = descriptor.digest
        self._words[repository, tag] = Word(now, digest, descriptor)
        self._leases.tag_changed(repository, tag)
        self._ledger.note_tag(repository, tag, TagRecord(digest, now))
        self.wait(repository, tag, digest)

    def wait(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        """The tag, whose word points there, is to be written once that manifest is kept."""
        waiting = self._waiting.setdefault((repository, digest), {})
        waiting.pop(tag, None)
        waiting[tag] = None
        while len(waiting) > WAITING_TAGS:
            del waiting[next(iter(waiting))]

    def refuse(self, repository: Repository, tag: Tag, error: RegistryError, now: float) -> None:
        """The upstream has refused the tag: what is kept of it is not given until it says otherwise."""
        self._words[repository, tag] = Word(now, refusal=bare(error))
        self._leases.tag_changed(repository, tag)
        self._ledger.note_tag(repository, tag, TagRecord(None, now, error.code.name))

    def next_waiting(self, repository: Repository, digest: Digest) -> Tag | None:
        """A tag that waits for this manifest and still points to it; it is the caller's now."""
        waiting = self._waiting.get((repository, digest), {})
        while waiting:
            tag = next(iter(waiting))
            del waiting[tag]
            word = self._words.get((repository, tag))
            if word is not None and word.digest == digest:
                return tag
        self._waiting.pop((repository, digest), None)
        return None


def _from_record(record: TagRecord) -> Word:
    if record.digest is not None:
        return Word(record.checked, record.digest)
    code = ErrorCode.__members__.get(record.refusal, ErrorCode.MANIFEST_UNKNOWN)
    text = "the upstream registry refused this tag when it was last asked"
    return Word(record.checked, refusal=RegistryError(code, text))
