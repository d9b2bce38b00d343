"""The spool file of one fill: what stands there, how much of it is hashed, and whether more is written.

What `fill` says about rules 7, 8 (until nothing is written any more) and 9 is done here.
"""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

import structlog

from mirror.cache.extents import Extents
from mirror.cache.front import Front
from mirror.cache.hands import Hands
from mirror.cache.room import Room, Share
from mirror.cache.spool import Spool, SpoolFile
from mirror.oci.digest import Digest
from mirror.registry import RegistryError

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM = "with cache.minfree or cache.maxsize the mirror makes room, if what it keeps is what fills the disk"

log = structlog.get_logger()


class Kept:
    """See the module's text. Everything that blocks is done by `hands`."""

    def __init__(self, digest: Digest, spool: Spool, hands: Hands, room: Room) -> None:
        self.there = Extents()  # bytes in the spool file
        self.front = Front(digest)
        self.file: SpoolFile | None = None
        self.keeps = True  # whether what comes is written to the disk
        self._digest = digest
        self._spool = spool
        self._hands = hands
        self._share = Share(room, digest)
        self._coming = 0  # bytes on their way to the file, for which there is room

    @property
    def path(self) -> Path | None:
        """Where what comes is written, while it is kept."""
        return self.file.path if self.file is not None and self.keeps else None

    async def open(self) -> None:
        """Open the spool and hash what an earlier fill left there (rule 7)."""
        try:
            file = await self._hands.run(self._spool.open, self._digest, then=self._opened)
            stop = file.there.end(0)
            while self.front.hashed < stop:
                error = await self._hands.run(self.front.read, file, stop)
                if error is not None:
                    raise error
        except OSError as error:  # no room, no rights, or a disk that cannot read what it has
            self.front.start_over()
            await self.forget()
            self.go_volatile(error)
            return
        for start, stop in file.there:
            self.there.add(start, stop)
        if self.there:
            log.info("fill.found_spool", digest=str(self._digest), bytes=self.there.total)

    def _opened(self, done: asyncio.Future[SpoolFile]) -> None:
        """Also where nobody waits for it any more: it is to be closed."""
        if done.exception() is None:
            self.file = done.result()

    async def start_over(self, reason: RegistryError) -> None:
        """Drop what was found and does not fit the upstream's answer; nobody may have read from it yet."""
        log.warning(
            "fill.spool_dropped", digest=str(self._digest), bytes=self.there.total, reason=str(reason)
        )
        self.front.start_over()
        self.there.cut(0)
        if self.file is not None:
            await self._hands.run(self.file.truncate)

    async def make_room(self, size: int) -> None:
        """See that a blob of `size` bytes fits; where it does not, nothing more is written (rule 9)."""
        if not self.keeps:
            return
        if not self._share.is_begun and not await self._share.begin(size, self.there.total):
            self.keep_no_more()  # who has refused has told why
            return
        wanted = size - self.there.total
        try:
            free = await self._hands.run(self._spool.free)
            if free < wanted:
                await self._hands.run(self._spool.shed, wanted - free)
                free = await self._hands.run(self._spool.free)
            if free < wanted:
                raise OSError(errno.ENOSPC, f"{wanted} bytes are wanted, {free} are free")
        except OSError as error:
            self.give_back()
            self.go_volatile(error)

    async def expect(self, size: int) -> None:
        """So many bytes more are on their way to the file; where there is no room for them, nothing is."""
        self._coming += size
        try:
            if self.keeps and not await self._share.reach(self.there.total + self._coming):
                self.keep_no_more()
        except BaseException:
            self._coming -= size
            raise

    def given_up(self, size: int) -> None:
        """So many of the bytes that were expected are not written."""
        self._coming -= size

    def wrote(self, start: int, stop: int) -> None:
        """These bytes that were expected stand in the file now."""
        self._coming -= stop - start
        if self.keeps or start <= self.there.end(0):  # what is ahead has to come again, see `keep_no_more`
            self.there.add(start, stop)

    async def catch_up(self) -> None:
        """Hash what stands in the file behind what was hashed: it came before what is in front of it."""
        front = self.front
        while (stop := self.there.end(front.hashed)) > front.hashed and front.begin(front.hashed):
            assert self.file is not None
            error = await self._hands.run(front.read, self.file, stop, then=front.end)
            if error is not None:
                self.there.cut(front.hashed)
                self.go_volatile(error)

    def go_volatile(self, reason: OSError) -> None:
        """From here on nothing is kept, since the disk does not do what it should."""
        count = self._spool.troubles.count(time.monotonic())
        if count:
            text = reason.strerror or str(reason)
            about = {"reason": text, "folder": str(self._spool.folder), "count": count}
            hint = {"hint": NO_ROOM} if reason.errno in FULL else {}
            log.warning("fill.not_keeping", digest=str(self._digest), **about, **hint)
        self.keep_no_more()

    def keep_no_more(self) -> None:
        """What stands in front can still be read until the fill's end; what came ahead has to come again."""
        self._share.give_back()
        self.keeps = False
        self.there.cut(self.there.end(0))

    def give_back(self) -> None:
        """The fill has ended: what it kept counts by itself."""
        self._share.give_back()

    async def completed(self) -> Path | None:
        """Where all of it stands, if it could be kept."""
        if self.file is None or not self.keeps:
            return None
        try:
            await self._hands.run(self.file.completed)
        except OSError as error:
            log.warning("fill.not_kept", digest=str(self._digest), reason=str(error))
            return None
        return self.file.path

    async def forget(self) -> None:
        """Remove the spool file's name; readers that have it open read on."""
        if self.file is not None:
            try:
                await self._hands.run(self.file.unlink)
            except OSError as error:  # a disk that has become read-only: the sweep takes it later
                log.warning("spool.not_removed", file=self.file.path.name, reason=error.strerror)

    def close(self) -> None:
        """Close the spool file: nobody can want it any more. Its bytes stay, unless forgotten."""
        if self.file is not None:
            self.file.close()
            self.file = None
