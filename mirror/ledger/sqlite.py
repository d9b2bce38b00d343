"""`Ledger`: what the mirror remembers across restarts, in memory at once and in a file a second later.

Nobody waits for the file but who asks for what is not in memory, and that not for long. A file that cannot be
used costs the memory of what was before the start, nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from cachetools import LRUCache

from mirror.ledger.file import LedgerFile, NotKept
from mirror.ledger.records import TagRecord
from mirror.ledger.schema import Key
from mirror.oci.names import Repository, Tag

MEMORY_LIMIT = 10_000  # tags in memory, some 5 MB; a busy mirror serves a few hundred
WAITING_LIMIT = 10_000  # changes that wait for the file; of more than that the oldest go
WRITE_SECONDS = 1.0  # between a change and its writing: what a crash may cost
BATCH = 1000  # changes written at once; at 200,000 rows that takes up to 60 ms, for which questions wait
RETRY_SECONDS = 10.0  # before a file that could not be used is tried again
READ_SECONDS = 1.0  # how long a question waits for the file; a look takes 0.1 ms, a busy disk some 0.1 s
READS_LIMIT = 1000  # questions that wait for the file at once
OPEN_SECONDS = 5.0  # how long the start waits for a disk that hangs
CLOSE_SECONDS = 5.0  # how long the stop does

_HANGS = "its disk does not answer"
_Changes = dict[Key, TagRecord | None]  # None: forget it
_T = TypeVar("_T")

log = structlog.get_logger()


class Ledger:
    """The upstreams' last words about tags. `path` None: in memory only, the MEMORY_LIMIT last used ones.

    To be used on one event loop, from `open` to `close`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = LedgerFile(path) if path is not None else None
        self._thread: ThreadPoolExecutor | None = None  # the file's one thread, from `open` to `close`
        self._writer: asyncio.Task[None] | None = None
        self._memory: LRUCache[Key, TagRecord | None] = LRUCache(MEMORY_LIMIT)
        self._waiting: _Changes = {}
        self._leaving: _Changes = {}  # being written
        self._lost = 0  # changes that found no room among those that wait
        self._reads: dict[Key, asyncio.Task[None]] = {}
        self._settling = asyncio.Lock()
        self._wanted = asyncio.Event()  # something waits, or the file failed
        self._stop = asyncio.Event()
        self._told = False  # the log says that nothing is kept
        self._stalled = False  # a question has waited in vain, and nothing has come from the file since

    async def open(self) -> None:
        """Open the file. Never fails: where that cannot be done, or not in OPEN_SECONDS, memory has to do."""
        if self._file is None:
            return
        self._thread = ThreadPoolExecutor(1, "ledger")
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._call(self._file.open)
        except (NotKept, TimeoutError) as error:
            self._failed(str(error) or _HANGS)
        self._writer = asyncio.create_task(self._write_behind())

    async def close(self) -> None:
        """Write what waits and close the file, as far as that can be done in CLOSE_SECONDS."""
        if self._file is None or self._thread is None:
            return
        self._stop.set()
        self._wanted.set()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._writer is not None:
                    await self._writer
                if self._waiting:
                    await self.settle()
                if self._reads:
                    await asyncio.wait(self._reads.values())
                await self._call(self._file.close)
        except TimeoutError:
            self._failed(_HANGS)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._thread = None

    async def tag(self, repository: Repository, tag: Tag) -> TagRecord | None:
        """The last record of a tag; None when there is none, or when the file cannot tell in READ_SECONDS."""
        key = (repository.name, tag.name)
        known, record = self._known(key)
        if known or self._file is None or not self._file.is_open or self._stalled:
            return record
        read = self._reads.get(key)
        if read is None:
            if self._thread is None or len(self._reads) >= READS_LIMIT:
                return None
            read = self._reads[key] = asyncio.create_task(self._read(self._file, key))
            read.add_done_callback(lambda _done: self._reads.pop(key))
        done, _ = await asyncio.wait([read], timeout=READ_SECONDS)
        if not done:
            self._stalled = True  # whoever comes next does not wait too
        return self._known(key)[1]

    def note_tag(self, repository: Repository, tag: Tag, record: TagRecord) -> None:
        """Remember this, and nothing older, of the tag. Never waits, never fails."""
        self._note((repository.name, tag.name), record)

    def forget(self, repository: Repository, tag: Tag) -> None:
        """Remember nothing of the tag. Never waits, never fails."""
        self._note((repository.name, tag.name), None)

    async def settle(self) -> bool:
        """Write what waits now; False if that could not be done, and is still to be done."""
        async with self._settling:
            if self._file is None or self._thread is None:
                return False
            self._wanted.clear()
            self._leaving, self._waiting = self._waiting, {}
            try:
                changes = list(self._leaving.items())
                for at in range(0, max(len(changes), 1), BATCH):
                    await self._call(partial(self._file.write, dict(changes[at : at + BATCH])))
            except NotKept as error:
                self._put_back()
                self._failed(str(error))
                return False
            except asyncio.CancelledError:
                self._put_back()  # it may be written all the same; twice does no harm
                raise
            self._leaving = {}
            if self._told:
                log.info("ledger.kept", file=str(self._path), lost=self._lost)
            self._told, self._lost = False, 0
            return True

    def _note(self, key: Key, record: TagRecord | None) -> None:
        self._memory[key] = record
        if self._file is not None:
            self._wait(key, record)
            self._wanted.set()

    def _wait(self, key: Key, record: TagRecord | None) -> None:
        self._waiting.pop(key, None)  # so that the newest stands last
        self._waiting[key] = record
        if len(self._waiting) > WAITING_LIMIT:
            del self._waiting[next(iter(self._waiting))]
            self._lost += 1
            self._failed("more changes than can be written")

    def _put_back(self) -> None:
        """What was to be written waits again, but for what has changed meanwhile."""
        newer, self._waiting, self._leaving = self._waiting, self._leaving, {}
        for key, record in newer.items():
            self._wait(key, record)
        self._wanted.set()

    def _known(self, key: Key) -> tuple[bool, TagRecord | None]:
        """Whether anything is known without the file, and what."""
        for place in (self._memory, self._waiting, self._leaving):
            if key in place:
                return True, place[key]
        return False, None

    async def _read(self, file: LedgerFile, key: Key) -> None:
        """Take from the file into memory.

        NB: what was noted meanwhile is newer. It cannot have been written and left memory either: the thread
        works in order, so that this comes back before any later write does.
        """
        try:
            record = await self._call(partial(file.read, key))
        except NotKept as error:
            self._failed(str(error))
            return
        if not self._known(key)[0]:
            self._memory[key] = record

    async def _write_behind(self) -> None:
        seconds = WRITE_SECONDS
        while not self._stop.is_set():
            await self._wanted.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # not `wait_for`, see `Keeper`
                    await self._stop.wait()
            seconds = WRITE_SECONDS if await self.settle() else RETRY_SECONDS

    async def _call(self, work: Callable[[], _T]) -> _T:
        """The result of work on the file, in its thread. Raises NotKept."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._stalled = False

    def _failed(self, reason: str) -> None:
        self._wanted.set()
        if not self._told:
            self._told = True
            log.warning("ledger.not_kept", file=str(self._path), reason=reason)
