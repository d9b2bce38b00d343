"""What is said about a configuration: problems stop the start, warnings do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.configsecrets import HIDDEN, is_secret
from mirror.configtree import Items, Scalar, Table, Tree, is_null
from mirror.configvalues import INSTEAD

SHOWN_MAX: Final = 100  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Problem:
    """One value that cannot be used. `source` is FILE:LINE or the variable that it came from.

    `closed`: since this user may not read a file, which only the server needs to.
    """

    source: str
    key: str
    text: str
    closed: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.text}"


@dataclass(frozen=True, slots=True)
class Warning_:  # noqa: N801 - `Warning` is Python's own, and this is not raised
    """Something that is ignored, or not meant as it stands."""

    source: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.text}" if self.key else f"{self.source}: {self.text}"


class ConfigError(Exception):
    """The configuration cannot be used: one line for each problem.

    `ignored`: what was not taken beside that, and may be the cause of it: unknown keys and variables.
    """

    def __init__(self, *problems: Problem | str, ignored: tuple[Warning_, ...] = ()) -> None:
        self.problems = problems
        self.ignored = ignored
        super().__init__("\n".join(str(problem) for problem in problems))


def wrong(source: str, key: str, given: Tree | None, allowed: str) -> Problem:
    """`got '5000', wanted HOST:PORT, …`, or `missing, wanted …` where nothing is given."""
    shown = show(key, given)
    if allowed.startswith(INSTEAD):
        return Problem(source, key, f"got {shown}{allowed}")
    return Problem(source, key, f"got {shown}, wanted {allowed}" if shown else f"missing, wanted {allowed}")


def show(key: str, tree: Tree | None) -> str:
    """A value for a message: short, on one line, and nothing secret; "" where none is given."""
    if isinstance(tree, Table):
        return "a section"
    if isinstance(tree, Items):
        return "a list"
    if tree is None or is_null(tree):
        return ""
    if is_secret(key.rpartition(".")[2]):
        return HIDDEN if tree.text else ""
    before, at, after = tree.text.rpartition("@")  # what stands before may be user:password, in any form
    text = f"{HIDDEN}@{after}" if at else before + after
    shown, mark, _query = text.partition("?")
    if mark and "/" in shown:  # a URL, in whose query a token may be
        text = f"{shown}?{HIDDEN}"
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…")


def show_path(path: Path) -> str:
    """A path for a message, with the one that it came to where it does not begin at the root."""
    return repr(str(path)) if path.is_absolute() else f"{str(path)!r} (that is {str(path.absolute())!r})"


def joined(*parts: str | int) -> str:
    """A key path: `http.headers.X-A[0]`."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def find(tree: Tree, parts: tuple[str | int, ...]) -> tuple[Tree | None, str]:
    """What stands at a path, and the source of it, or of the nearest section above where nothing does."""
    at: Tree | None = tree
    source = tree.source
    for part in parts:
        if isinstance(at, Table) and isinstance(part, str):
            at = at.entries.get(part)
        elif isinstance(at, Items) and isinstance(part, int) and part < len(at.entries):
            at = at.entries[part]
        else:
            at = None
        if at is None:
            return None, source
        source = at.source
    return at, source


def is_given(tree: Tree | None) -> bool:
    """Whether something stands there that is not empty: `key:` and `key: ""` are as good as no key."""
    return not is_null(tree) and text_of(tree) != ""


def says_something(tree: Tree | None) -> bool:
    """Whether anything is given there or below."""
    if isinstance(tree, Table):
        return any(says_something(entry) for entry in tree.entries.values())
    if isinstance(tree, Items):
        return any(says_something(entry) for entry in tree.entries)
    return is_given(tree)


def text_of(tree: Tree | None) -> str | None:
    """The text of a single value, None for anything else."""
    return tree.text if isinstance(tree, Scalar) and tree.kind != "null" else None
