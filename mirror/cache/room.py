"""Room for what comes: asked for in steps, ahead of what a fill writes; given back when it has ended."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mirror.oci.digest import Digest


class Room(Protocol):
    """Who looks after the limits: see `keeper.Keeper`."""

    async def admit(self, digest: Digest, size: int) -> int:
        """A blob of so many bytes is coming. Returns how many to ask room for at once; 0: it cannot fit.

        Nothing goes for it yet: so far its size was only announced.
        """

    async def make_room(self, digest: Digest, size: int) -> bool:
        """Reserve room for so many bytes; False: they do not fit, and are not to be kept."""

    def release(self, digest: Digest, size: int, *, admitted: int = 0) -> None:
        """Give back what `make_room` reserved, and what `admit` let in: it has come, or will not."""


class Unlimited:
    """As much as the disk takes."""

    async def admit(self, digest: Digest, size: int) -> int:
        return max(size, 1)

    async def make_room(self, digest: Digest, size: int) -> bool:
        return True

    def release(self, digest: Digest, size: int, *, admitted: int = 0) -> None:
        """Nothing was reserved."""


class Share:
    """One fill's room. Who has refused it has told why."""

    def __init__(self, room: Room, digest: Digest) -> None:
        self._room = room
        self._digest = digest
        self._size = 0  # bytes of the blob, once it was admitted
        self._step = 0  # bytes
        self._reserved = 0  # bytes
        self._turn = asyncio.Lock()  # of who asks for more: several connections bring a blob

    @property
    def is_begun(self) -> bool:
        """Whether the blob was admitted, and is not given up."""
        return self._step > 0

    async def begin(self, size: int, there: int) -> bool:
        """Whether a blob of `size` bytes may be kept, of which so many are on the disk already."""
        step = await self._room.admit(self._digest, size)
        if not step:
            return False
        self._size, self._step = size, step
        if await self.reach(min(size, there + step)):
            return True
        self.give_back()
        return False

    async def reach(self, count: int) -> bool:
        """Whether so many bytes of it may be on the disk, now or after what had to go for them."""
        if min(count, self._size) <= self._reserved:
            return True
        async with self._turn:
            missing = min(count, self._size) - self._reserved
            if missing <= 0:
                return True
            wanted = min(max(missing, self._step), self._size - self._reserved)
            if not await self._room.make_room(self._digest, wanted):
                return False
            if not self._step:  # given back meanwhile
                self._room.release(self._digest, wanted)
                return False
            self._reserved += wanted
            return True

    def give_back(self) -> None:
        """The fill has ended, or writes no more: what it kept counts by itself."""
        if self._step:
            self._room.release(self._digest, self._reserved, admitted=self._size)
            self._size = self._step = self._reserved = 0
