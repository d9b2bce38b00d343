"""Who fetches which stretch of a large blob: several connections at once, the nearest-needed bytes first.

Decides only. A claim is a stretch that one connection brings. Its length shrinks with what is left (guided
self-scheduling), so that all connections end at about the same time, and the first ones ask seldom.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import Iterable
from dataclasses import dataclass, field

from mirror.cache.extents import Extents

LEAST = 4 << 20  # bytes that are worth a request of their own: 0.2 s at 20 MB/s
LEAST_SHARE = 8  # of the smallest blob that comes in segments, where that is less
MOST = 64 << 20  # bytes of one claim: a reader who goes through the blob waits for no more than that
UNKNOWN = 1 << 62  # the end of a blob whose size is not known yet


@dataclass(frozen=True, slots=True)
class Settings:
    """`least`: bytes of a blob from which on it may come over several connections, `connections` at most."""

    least: int = 32 << 20
    connections: int = 1

    @property
    def claim(self) -> int:
        """Bytes of a claim that is worth a request."""
        return min(LEAST, self.least // LEAST_SHARE)


@dataclass(slots=True, eq=False)
class Claim:
    """[start, stop), of which all before `position` has come.

    `is_open`: what comes is all from there on, so `stop` may move meanwhile; `skips`: so may `start`, for an
    upstream without ranges sends all of it, also what is there already. `settled`: bytes of it have come, or
    it was dropped. All before `granted` comes in any case: a thread is taking it.
    """

    start: int
    stop: int
    position: int
    is_open: bool = False
    skips: bool = False
    granted: int = 0
    settled: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class Want:
    """What a reader waits for: [position, stop)."""

    position: int
    stop: int


class Plan:
    """See the module's text. `there`: what stands in the file already, which the caller keeps."""

    def __init__(self, there: Extents, least: int = LEAST) -> None:
        self.least = least  # bytes of a claim that is worth a request
        self.size: int | None = None
        self._there = there
        self._claims: list[Claim] = []

    def first(self, start: int) -> Claim:
        """All from `start` on up to what is there, for who is alone and may not know the size."""
        end = UNKNOWN if self.size is None else self.size
        stop = next((stop for begin, stop in self._taken().gaps(start, end) if begin == start), end)
        return self._add(Claim(start, stop, start, is_open=stop == end))

    def sized(self, size: int) -> None:
        """The size is known now."""
        self.size = size
        for claim in self._claims:
            claim.stop = min(claim.stop, size)

    def take(self, wants: Iterable[Want], count: int) -> Claim | None:
        """The next claim where `count` connections share what is left; None where nothing is left.

        Alone, that is the first gap, whoever waits for what: the rest comes by the same request, also where
        the upstream does no ranges. Up to the blob's end it is open, so that others can take from it.
        """
        assert self.size is not None
        gaps = self._gaps()
        if not gaps and count > 1:
            self._narrow(count)
            gaps = self._gaps()
        if not gaps:
            return None
        start, stop = _nearest(gaps, wants, self.least) if count > 1 else gaps[0]
        if count > 1:
            stop = self._bounded(start, stop, count, sum(end - begin for begin, end in gaps))
        elif stop < self.size:
            stop = min(stop, start + MOST)  # who comes to help finds something to do
        return self._add(Claim(start, stop, start, is_open=count == 1 and stop == self.size))

    def onward(self, claim: Claim, count: int) -> bool:
        """Whether an open claim that has come to its stop goes on: there, or farther on if it skips.

        All that came by it must be there, or nobody's.
        """
        if not claim.is_open or self.size is None:
            return False
        gaps = self._taken().gaps(claim.stop, self.size)
        if not gaps or not (claim.skips or gaps[0][0] == claim.stop):
            return False
        start, stop = gaps[0]
        if count > 1:
            stop = self._bounded(start, stop, count, sum(end - begin for begin, end in self._gaps()))
        if start > claim.stop:
            claim.start = claim.position = start
        claim.stop = stop
        return True

    def ahead(self, claim: Claim) -> Claim | None:
        """The claim for which an open one cannot go on, if nothing of that has come yet."""
        after = [each for each in self._claims if each is not claim and each.start >= claim.stop]
        nearest = min(after, key=lambda each: each.start, default=None)
        if nearest is None or not claim.is_open or nearest.position > nearest.start:
            return None
        return nearest if claim.skips or nearest.start == claim.stop else None

    def lacks(self, wants: Iterable[Want]) -> bool:
        """Whether some reader waits for bytes that are nobody's."""
        gaps = self._gaps()
        return any(begin <= want.position < min(end, want.stop) for want in wants for begin, end in gaps)

    def drop(self, claim: Claim) -> None:
        """Nothing more comes by it: what has not come is anybody's."""
        self._claims.remove(claim)
        claim.settled.set()

    def _add(self, claim: Claim) -> Claim:
        self._claims.append(claim)
        return claim

    def _taken(self) -> Extents:
        taken = Extents()
        for start, stop in self._there:
            taken.add(start, stop)
        for claim in self._claims:
            taken.add(claim.start, claim.stop)
        return taken

    def _gaps(self) -> list[tuple[int, int]]:
        assert self.size is not None
        return self._taken().gaps(0, self.size)

    def _narrow(self, count: int) -> None:
        """Leave to others what an open claim has not come to."""
        for claim in self._claims:
            begun = max(claim.position, claim.granted)
            left = claim.stop - begun
            if claim.is_open and left >= 2 * self.least:
                claim.stop = begun + self._share(left, count)

    def _share(self, left: int, count: int) -> int:
        return min(max(self.least, left // (2 * count)), MOST)

    def _bounded(self, start: int, stop: int, count: int, left: int) -> int:
        """Where a claim from `start` on ends, before `stop`; a small rest goes with it."""
        bound = start + self._share(left, count)
        return stop if stop - bound < self.least // 2 else min(stop, bound)


def _nearest(gaps: list[tuple[int, int]], wants: Iterable[Want], least: int) -> tuple[int, int]:
    """The gap, or its part, whose first byte some reader comes to soonest; the first one where none does."""
    best: tuple[int, int, int] | None = None
    for want in wants:
        for begin, end in gaps:
            start = max(begin, want.position)
            if start >= min(end, want.stop):
                continue
            if start - begin < least:  # too little to be left for a request of its own
                start = begin
            distance = max(0, start - want.position)
            if best is None or distance < best[0]:
                best = (distance, start, end)
            break  # gaps are in order: a later one is farther
    return (best[1], best[2]) if best is not None else gaps[0]
