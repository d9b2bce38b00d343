"""Room for what comes: asked for before a fill writes, given back when it has ended."""

from __future__ import annotations

from typing import Protocol

from mirror.oci.digest import Digest


class Room(Protocol):
    """Who looks after the limits: see `keeper.Keeper`."""

    async def make_room(self, digest: Digest, size: int) -> bool:
        """Reserve room for so many bytes; False: they do not fit, and are not to be kept."""

    def release(self, digest: Digest, size: int) -> None:
        """Give back what `make_room` reserved."""


class Unlimited:
    """As much as the disk takes."""

    async def make_room(self, digest: Digest, size: int) -> bool:
        return True

    def release(self, digest: Digest, size: int) -> None:
        """Nothing was reserved."""
