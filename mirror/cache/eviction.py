"""What has to go, and how much. Decides only: sizes in bytes, times in seconds, all given by the caller.

1. Least recently used first, whole images before halves: an image's manifest goes, and with it what no other
   image names.
2. Near `maxsize`, down to LOW of it: one pass of some length is cheaper than one for each pull, and begun at
   HIGH it leaves room for what comes meanwhile. A fill that has to wait waits for its own bytes only.
3. When the disk has little more than `minfree` left, until it has some more; but not where all that can go
   would not bring it there: others have filled it, and what is kept would be lost for nothing.
4. What was not used for `ttl`, always.
5. What broken fills have left in the spool counts as kept, and goes before anything else.
6. What is pinned, and what was used in the last GRACE seconds, stays: better over the limit than a pull that
   loses its blobs on the way.
7. A layer in use is its image in use, and an index in use is all of it in use: see `ledger.uses`. What is
   being filled is in use until it is here, however long a pull takes. A blob that was used in any other way
   stays when its image goes, and goes by its own age.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mirror.cache.freshness import Rule
from mirror.oci.digest import Digest

LOW = 0.9  # of maxsize that is left after a pass
HIGH = 0.95  # of maxsize at which a pass begins
MORE = 1.25  # of minfree that is free after a pass
SOME = 1.1  # of minfree that is free when a pass begins
STEP = 64 << 20  # bytes of room that a fill is given at once: a second of a fast link
STEP_SHARE = 1 / 20  # of maxsize, where that is less: what is only announced is to cost little
GRACE = 60.0  # seconds between two things that a client asks for, mostly: each counts for the whole image


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data folder."""

    size: int
    free: int


@dataclass(frozen=True, slots=True)
class Held:
    """What there is: `kept` bytes in the store; of what is coming those announced and those in the spool.

    In the spool is also what broken fills have left.
    """

    kept: int
    disk: Disk | None
    announced: Mapping[Digest, int]
    spooled: Mapping[Digest, int]

    @property
    def bytes(self) -> int:
        """All that is kept, and will be when what was announced is here."""
        coming, there = self.announced, self.spooled
        return self.kept + sum(max(coming.get(each, 0), there.get(each, 0)) for each in {*coming, *there})

    @property
    def free(self) -> int:
        """What will be free on the disk then; below 0 where it does not fit. 0 where there is none."""
        if self.disk is None:
            return 0
        there = self.spooled
        unwritten = sum(max(0, size - there.get(each, 0)) for each, size in self.announced.items())
        return self.disk.free - unwritten

    def plus(self, digest: Digest, size: int) -> Held:
        """The same with so many bytes more announced."""
        announced = {**self.announced, digest: self.announced.get(digest, 0) + size}
        return Held(self.kept, self.disk, announced, self.spooled)

    def without(self, can_go: int) -> Held:
        """What is left when so many bytes of the kept are gone, and all that stands in the spool."""
        there = sum(self.spooled.values())
        disk = self.disk and Disk(self.disk.size, self.disk.free + can_go + there)
        return Held(self.kept - can_go, disk, self.announced, {})

    @property
    def kept_alone(self) -> Held:
        """The same when nothing was coming."""
        return Held(self.kept, self.disk, {}, {})


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

    def step(self, disk: Disk | None) -> int:
        """Bytes of room that a fill is given at once."""
        most = self.most(disk)
        return STEP if most is None else max(1, min(STEP, int(most * STEP_SHARE)))

    def short_of(self, held: Held) -> tuple[str, str]:
        """The limit that is in the way, by its name and as it was given."""
        most = self.most(held.disk)
        if most is not None and held.bytes > most:
            return "cache.maxsize", _given(self.maxsize, self.maxsize_share)
        return "cache.minfree", _given(self.minfree, self.minfree_share)

    def is_pinned(self, names: Iterable[str]) -> bool:
        """Whether any of an image's names, `repository:tag`, is to stay."""
        return any(rule.fits(name) for rule in self.pins for name in names)


def is_high(held: Held, limits: Limits) -> bool:
    """Whether it is time for a pass, though what comes now may fit still."""
    most = limits.most(held.disk)
    if most is not None and held.bytes > most * HIGH:
        return True
    return held.disk is not None and held.free < limits.reserve(held.disk) * SOME


def surplus(held: Held, limits: Limits, can_go: int | None = None) -> int:
    """Bytes that a pass is to free, also where all fits still. `can_go`: so many can, of those kept."""
    most = limits.most(held.disk)
    over = 0 if most is None else held.bytes - int(most * LOW)
    if held.disk is not None:
        reserve = limits.reserve(held.disk)
        if can_go is None or held.without(can_go).free >= reserve:
            over = max(over, int(reserve * MORE) - held.free)
    return max(over, 0)


def needed(held: Held, limits: Limits) -> int:
    """Bytes that have to go before what was announced is written, 0 when it fits: somebody waits for it."""
    most = limits.most(held.disk)
    over = 0 if most is None else held.bytes - most
    if held.disk is not None:
        over = max(over, limits.reserve(held.disk) - held.free)
    return max(over, 0)


def _given(size: int | None, share: float | None) -> str:
    if share is not None:
        return f"{share * 100:g}%"
    amount, units = float(size or 0), ["KiB", "MiB", "GiB", "TiB"]
    unit = "B"
    while amount >= 1024 and units:
        amount, unit = amount / 1024, units.pop(0)
    return f"{amount:.4g}{unit}"
