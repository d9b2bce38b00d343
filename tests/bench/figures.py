"""What is measured: the lines of the table, the figures that runs give for them, and their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.bench.peers import MIRROR, Peer
from tests.bench.stage import Stage

DIRECTLY = "upstream, directly"  # a column beside the peers'
RIVAL = "docker-registry"  # whom the mirror is held against


@dataclass(frozen=True, slots=True)
class Line:
    """Of the table. `goal`: as promised, "" where nothing is."""

    key: str
    title: str
    goal: str = ""
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What one run gave for a line; a text where there is no number."""

    line: str
    value: float | str
    who: str = ""  # "": the peer that was measured


Measure = Callable[[Stage, Peer], Iterable[Figure]]


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured together. `runs`: at most so many, for what takes long or hardly varies."""

    key: str
    measure: Measure
    lines: Sequence[Line]
    runs: int = 99
    fills: bool = False  # only for those that have an upstream
    only: frozenset[str] | None = None  # names of peers; None: all

    def is_for(self, peer: Peer) -> bool:
        """Whether this peer can do it at all."""
        if self.only is not None:
            return peer.name in self.only
        return peer.link is not None or not self.fills


@dataclass(slots=True)
class Results:
    """All that was measured, by line and column."""

    figures: dict[tuple[str, str], list[float | str]] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)  # peers that were not measured, and why

    def add(self, figure: Figure, peer: str) -> None:
        self.figures.setdefault((figure.line, figure.who or peer), []).append(figure.value)

    def median(self, line: str, who: str) -> float | str | None:
        """Of the runs; the text if there is one, None if nothing was measured."""
        found = self.figures.get((line, who), [])
        texts = [value for value in found if isinstance(value, str)]
        if texts:
            return "; ".join(dict.fromkeys(texts))
        return statistics.median(map(float, found)) if found else None

    def cell(self, line: Line, who: str) -> str:
        """As it stands in the table."""
        value = self.median(line.key, who)
        if value is None or isinstance(value, str):
            return value or ""
        return f"{value:,.{line.digits}f}"

    def against(self, line: Line) -> str:
        """The mirror's figure divided by the rival's."""
        ours, theirs = self.median(line.key, MIRROR), self.median(line.key, RIVAL)
        if not isinstance(ours, float) or not isinstance(theirs, float) or not theirs:
            return ""
        return f"{ours / theirs:.2g}" if ours < 10 * theirs else f"{ours / theirs:,.0f}"
