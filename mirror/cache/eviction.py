"""What has to go, and how much. Decides only: sizes in bytes, times in seconds, all given by the caller.

1. Least recently used first, whole images before halves: an image's manifest goes, and with it what no other
   image names.
2. Over `maxsize`, down to LOW of it: one pass of some length is cheaper than one for each pull. A fill waits
   for its own bytes only; the rest goes behind it.
3. When the disk has less than `minfree` left, until it has some more than that.
4. What was not used for `ttl`, always.
5. What is pinned, and what was used in the last GRACE seconds, stays: better over the limit than a pull that
   loses its blobs on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirror.cache.freshness import Rule

LOW = 0.9  # of maxsize that is left after a pass
MORE = 1.25  # of minfree that is free after a pass
GRACE = 60.0  # seconds between a client's manifest and its last blob's first byte, mostly


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data folder."""

    size: int
    free: int


@dataclass(frozen=True, slots=True)
class Limits:
    """`cache.maxsize`, `cache.minfree`, `proxy.ttl` and `cache.pin`; None: no such limit.

    Sizes are in bytes, or a share of the disk where `…_share` is given.
    """

    maxsize: int | None = None
    maxsize_share: float | None = None
    minfree: int | None = None
    minfree_share: float | None = None
    ttl: float | None = None
    pins: tuple[Rule, ...] = ()

    @property
    def of_size(self) -> bool:
        """Whether there is any limit of how much is kept."""
        return any((self.maxsize, self.maxsize_share, self.minfree, self.minfree_share))

    def most(self, disk: Disk | None) -> int | None:
        """The bytes that may be kept."""
        if self.maxsize_share is not None and disk is not None:
            return int(disk.size * self.maxsize_share)
        return self.maxsize

    def reserve(self, disk: Disk | None) -> int:
        """The bytes of the disk that are to stay free."""
        if self.minfree_share is not None and disk is not None:
            return int(disk.size * self.minfree_share)
        return self.minfree or 0

    def is_pinned(self, names: Iterable[str]) -> bool:
        """Whether any of an image's names, `repository:tag`, is to stay."""
        return any(rule.fits(name) for rule in self.pins for name in names)


def surplus(kept: int, disk: Disk | None, limits: Limits) -> int:
    """Bytes that a pass is to free, also where all fits still."""
    most = limits.most(disk)
    over = 0 if most is None else kept - int(most * LOW)
    if disk is not None:
        over = max(over, int(limits.reserve(disk) * MORE) - disk.free)
    return max(over, 0)


def needed(kept: int, coming: int, disk: Disk | None, limits: Limits) -> int:
    """Bytes that have to go before `coming` more are written, 0 when they fit: somebody waits for it."""
    over = 0
    most = limits.most(disk)
    if most is not None:
        over = kept + coming - most
    if disk is not None:
        over = max(over, limits.reserve(disk) - (disk.free - coming))
    return max(over, 0)
