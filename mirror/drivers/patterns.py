"""Patterns of paths, as `find` takes them (drivers.base): which names below a folder lead to what is wanted.

A pattern becomes what is left of it, component by component, so that nobody enters a folder in vain.
"""

from __future__ import annotations

from collections.abc import Iterable

from mirror.drivers import paths

ANY = "*"
FOLDERS = "**"

_Tail = tuple[str, ...]


class Wanted:
    """What is wanted below one folder. One object for all folders of which the same is wanted."""

    def __init__(self, tails: frozenset[_Tail]) -> None:
        firsts = {tail[0] for tail in tails if tail}
        self.ends = () in tails  # a file that is here itself
        # Only these names, each that of a file; None: there is more to be looked at than that.
        self.files = tuple(sorted(firsts)) if self._are_files(tails, firsts) else None
        self._tails = tails
        self._named = firsts - {ANY, FOLDERS} | {tail[1] for tail in tails if tail and tail[0] == FOLDERS}
        self._below: dict[str, Wanted] = {}  # of `_named`, and of "" for every other name

    def __bool__(self) -> bool:
        return bool(self._tails)

    def below(self, name: str) -> Wanted:
        """What is wanted of this name."""
        key = name if name in self._named else ""
        found = self._below.get(key)
        if found is None:
            tails = frozenset(tail for each in self._tails for tail in self._step(each, key))
            found = self._below[key] = self if tails == self._tails else Wanted(tails)
        return found

    def fits(self, path: str) -> bool:
        """Whether a file at this path below is wanted."""
        left = self
        for name in path.split("/"):
            left = left.below(name)
        return left.ends

    def _step(self, tail: _Tail, name: str) -> Iterable[_Tail]:
        if not tail:
            return
        if tail[0] == FOLDERS:
            if name == tail[1]:
                yield tail[2:]
            elif not name or not any(other[:2] == (FOLDERS, name) for other in self._tails):
                yield tail
        elif tail[0] in (ANY, name):
            yield tail[1:]

    @staticmethod
    def _are_files(tails: Iterable[_Tail], firsts: set[str]) -> bool:
        return bool(firsts) and ANY not in firsts and all(len(tail) < 2 for tail in tails)


def parse(patterns: Iterable[str]) -> Wanted:
    """What these patterns want. Raises ValueError for what is none."""
    return Wanted(frozenset(map(_split, patterns)))


def _split(pattern: str) -> _Tail:
    parts = tuple(pattern.split("/"))
    names = parts[1:] if parts[0] == FOLDERS else parts
    good = all(part == ANY or paths.is_name(part) for part in names)
    if not good or not names or (names != parts and names[0] == ANY):
        raise ValueError(f"no pattern: {pattern!r}")
    return parts
