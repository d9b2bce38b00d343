"""YAML text -> a tree that still knows where each part came from.

Read from the parser's events, not by a constructor: so nesting and size are bounded before anything is
built, an alias cannot multiply, a key cannot stand twice unseen, and a value keeps its text: the password
`0123` is not the number 83. Knows no schema; called by `configfile` for the file and by `configenv` for each
variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml import events

from mirror.configyaml import QUOTE_IT, Mark, explain

TEXT_LIMIT: Final = 1 << 20  # characters; the largest real files have some tens of KiB
NODES_MAX: Final = 10_000  # with aliases expanded
DEPTH_MAX: Final = 32  # the deepest key of the registry is at 6

_resolve: Callable[[type[yaml.Node], str, tuple[bool, bool]], str | None] = yaml.resolver.Resolver().resolve
_KINDS = {f"tag:yaml.org,2002:{kind}": kind for kind in ("str", "int", "float", "bool", "null", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"
_VALUE = "tag:yaml.org,2002:value"  # a lone `=`, which is text


class TreeError(ValueError):
    """The text is not YAML that the mirror reads; the message says why, in one line, and no value.

    `line` and `column` count from 1.
    """

    def __init__(self, mark: Mark | None, message: str) -> None:
        self.line, self.column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        super().__init__(message)


@dataclass(slots=True)
class Scalar:
    """A single value as it was written; `kind` is what YAML takes it for: str, int, float, bool, null."""

    text: str
    kind: str
    source: str  # where it came from, for messages: `FILE:LINE`, or the variable's name
    plain: bool = False  # written without quotes


@dataclass(slots=True)
class Table:
    """A section: keys and what stands below them."""

    source: str
    entries: dict[str, Tree] = field(default_factory=dict)


@dataclass(slots=True)
class Items:
    """A list."""

    source: str
    entries: list[Tree] = field(default_factory=list)


Tree = Scalar | Table | Items


def is_null(tree: Tree | None) -> bool:
    """Whether nothing was given: no key, `key:`, `key: null`."""
    return tree is None or (isinstance(tree, Scalar) and tree.kind == "null")


def parse(text: str, source: str, *, lines: bool) -> Tree | None:
    """The tree of the only document in `text`, None when there is none. `lines`: name them in sources.

    Raises TreeError.
    """
    if len(text) > TEXT_LIMIT:
        raise TreeError(None, f"larger than {TEXT_LIMIT >> 20} MiB")
    try:
        return _Builder(source, lines=lines).build(iter(yaml.parse(text, Loader=yaml.SafeLoader)))
    except yaml.MarkedYAMLError as error:
        raise TreeError(*explain(error, text)) from error
    except yaml.YAMLError as error:  # the reader's: a character that YAML does not allow
        raise TreeError(None, "not YAML: a control character or another that YAML does not allow") from error


def resolved(tree: Tree) -> Any:
    """The tree as plain values, where no schema says what kind they are."""
    if isinstance(tree, Table):
        return {key: resolved(entry) for key, entry in tree.entries.items()}
    if isinstance(tree, Items):
        return [resolved(entry) for entry in tree.entries]
    if tree.kind in ("int", "float", "bool", "null"):
        try:
            return yaml.safe_load(tree.text)
        except (ValueError, yaml.YAMLError):  # an explicit tag on other text: !!int x
            return tree.text
    return tree.text


class _Builder:
    def __init__(self, source: str, *, lines: bool) -> None:
        self._source = source
        self._lines = lines
        self._nodes = 0
        self._anchors: dict[str, Tree] = {}

    def build(self, stream: Iterator[yaml.Event]) -> Tree | None:
        tree: Tree | None = None
        for event in stream:
            if isinstance(event, events.DocumentStartEvent):
                if tree is not None:
                    raise TreeError(event.start_mark, "more than one document; only one is read")
                tree = self._node(next(stream), stream, 0)
        return tree

    def _node(self, event: yaml.Event, stream: Iterator[yaml.Event], depth: int) -> Tree:
        self._count(event, depth)
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:  # also an alias inside its own anchor
                raise TreeError(event.start_mark, f"an alias without its anchor; {QUOTE_IT.format('*')}")
            return self._copy(self._anchors[event.anchor], event, depth)
        tree: Tree
        if isinstance(event, events.ScalarEvent):
            tree = self._scalar(event)
        elif isinstance(event, events.SequenceStartEvent):
            tree = Items(self._place(event))
            for inner in stream:
                if isinstance(inner, events.SequenceEndEvent):
                    break
                tree.entries.append(self._node(inner, stream, depth + 1))
        else:
            tree = self._table(event, stream, depth)
        if isinstance(event, events.NodeEvent) and event.anchor is not None:
            if (
                isinstance(tree, Scalar) and tree.plain and not tree.text
            ):  # the password `&secret` would be none
                raise TreeError(event.start_mark, f"an anchor on nothing; {QUOTE_IT.format('&')}")
            self._anchors[event.anchor] = tree
        return tree

    def _table(self, event: yaml.Event, stream: Iterator[yaml.Event], depth: int) -> Table:
        table = Table(self._place(event))
        merged: list[Table] = []
        first: dict[str, int] = {}  # the line of each key
        for inner in stream:
            if isinstance(inner, events.MappingEndEvent):
                break
            key = self._node(inner, stream, depth + 1)
            value = self._node(next(stream), stream, depth + 1)
            if not isinstance(key, Scalar):
                raise TreeError(inner.start_mark, "a key that is itself a section or a list")
            if key.kind == "merge":
                merged += _merge_sources(value, inner.start_mark)
            elif key.text in table.entries:
                text = f"key {key.text[:100]!r} is there twice, first in line {first[key.text]}"
                raise TreeError(inner.start_mark, text)
            else:
                if not isinstance(value, Scalar):
                    value.source = key.source  # the line of `auth:`, not that of what is below it
                table.entries[key.text] = value
                first[key.text] = _line(inner)
        for other in merged:  # YAML merge: the section's own keys win, then the first of several
            for name, entry in other.entries.items():
                table.entries.setdefault(name, entry)
        return table

    def _scalar(self, event: events.ScalarEvent) -> Scalar:
        tag = event.tag
        if tag is None or tag == "!":
            tag = _resolve(yaml.ScalarNode, event.value, event.implicit)
        plain = event.style is None
        if tag == _MERGE:
            return Scalar(event.value, "merge", self._place(event), plain)
        if tag != _VALUE and tag not in _KINDS:
            raise TreeError(event.start_mark, f"a tag that is not supported; {QUOTE_IT.format('!')}")
        kind = _KINDS.get(tag, "str")
        return Scalar(event.value, "str" if kind == "timestamp" else kind, self._place(event), plain)

    def _copy(self, tree: Tree, event: yaml.Event, depth: int) -> Tree:
        """A copy, for a variable may change one place and must not change the other."""
        self._count(event, depth)
        if isinstance(tree, Table):
            entries = {key: self._copy(entry, event, depth + 1) for key, entry in tree.entries.items()}
            return Table(tree.source, entries)
        if isinstance(tree, Items):
            return Items(tree.source, [self._copy(entry, event, depth + 1) for entry in tree.entries])
        return Scalar(tree.text, tree.kind, tree.source, tree.plain)

    def _count(self, event: yaml.Event, depth: int) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise TreeError(event.start_mark, f"more than {NODES_MAX} values")
        if depth > DEPTH_MAX:
            raise TreeError(event.start_mark, f"nested deeper than {DEPTH_MAX} levels")

    def _place(self, event: yaml.Event) -> str:
        return f"{self._source}:{_line(event)}" if self._lines else self._source


def _merge_sources(value: Tree, mark: Mark | None) -> list[Table]:
    sources = value.entries if isinstance(value, Items) else [value]
    tables = [source for source in sources if isinstance(source, Table)]
    if len(tables) != len(sources):
        raise TreeError(mark, "<< takes a section, or a list of them")
    return tables


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
