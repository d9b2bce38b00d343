"""REGISTRY_* variables, laid over the file's tree by the registry's rules.

They are taken in the order of their names, so a section comes before what is in it. A name is split at each
`_`, and each part goes one level down: in a section by the registry's field name or by the YAML key, in a map
by the key (a new one is lower-cased), in a list by the number. The value is YAML, so it may be a whole
section. What has no place is ignored with a warning, as in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping

from mirror.configproblems import Problem, Warning_, joined, wrong
from mirror.configschema import ROOT, Field, Free, Leaf, List, Map, Shape, Struct, nearest, paths, slip
from mirror.configtree import DEPTH_MAX, Items, Scalar, Table, Tree, TreeError, is_null, parse

PREFIX = "REGISTRY_"
_NOT_OVERRIDES = frozenset({"REGISTRY_CONFIGURATION_PATH"})  # names the file
_VERSION = "REGISTRY_VERSION"  # which only the file can say
_INDEX_DIGITS = 6  # no list is longer
_PORTS = frozenset({"REGISTRY_PORT", "REGISTRY_HTTP_PORT"})  # what people try in place of http.addr
_UPSTREAMS = ["PROXY", "UPSTREAMS"]
QUOTE_INSIDE = "put single quotes inside of the variable's value, \"'…'\", to take it as it is"


def overlay(tree: Table, environ: Mapping[str, str]) -> tuple[list[Problem], list[Warning_]]:
    """Changes `tree` by the variables. Returns what is wrong with them, and what is worth a warning."""
    problems: list[Problem] = []
    warnings: list[Warning_] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in _NOT_OVERRIDES:
            continue
        if name == _VERSION:
            warnings.append(Warning_(name, "version", "ignored: only the file can say its version"))
            continue
        variable = _Variable(name, environ[name])
        try:
            variable.apply(tree)
        except _Unrecognized as miss:
            meant = _meant(variable, miss)
            hint = f"; did you mean {meant}?" if meant else ""
            warnings.append(Warning_(name, "", f"unknown variable, ignored{hint}"))
        except _Misplaced as miss:
            problems.append(miss.problem)
        warnings += variable.warnings
    return problems, warnings


class _Unrecognized(Exception):
    """No key has this name; `shape` is where the part at `depth` was looked for, if it was in a section."""

    def __init__(self, shape: Struct | None = None, depth: int = 0) -> None:
        self.shape = shape
        self.depth = depth


class _Misplaced(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _Variable:
    """One variable on its way down the tree."""

    def __init__(self, name: str, payload: str) -> None:
        self.name = name
        self.payload = payload
        self.parts = name.removeprefix(PREFIX).split("_")
        self.warnings: list[Warning_] = []

    def apply(self, tree: Table) -> None:
        if len(self.parts) > DEPTH_MAX or not all(self.parts):
            raise _Unrecognized
        self._down(tree, ROOT, 0, ())

    def _down(self, tree: Tree, shape: Shape, depth: int, path: tuple[str | int, ...]) -> None:
        """Put the value below `tree`, which has `shape`, at what `parts[depth:]` names."""
        if isinstance(shape, Struct) and shape.inline == self.parts[depth] and depth + 1 < len(self.parts):
            depth += 1
        if isinstance(shape, Free):  # then what stands there decides
            shape = List(Free()) if isinstance(tree, Items) else Map(Free())
        if isinstance(tree, Table) and isinstance(shape, Struct | Map):
            self._into_table(tree, shape, depth, path)
        elif isinstance(tree, Items) and isinstance(shape, List):
            self._into_list(tree, shape, depth, path)
        else:  # below a single value; or the file has another shape there, which is reported for the file
            raise _Unrecognized

    def _into_table(self, table: Table, shape: Struct | Map, depth: int, path: tuple[str | int, ...]) -> None:
        part, last = self.parts[depth], depth
        if isinstance(shape, Struct):
            two = "_".join(self.parts[depth : depth + 2])
            if shape.by_part(part) is None and shape.by_part(two) is not None:
                part, last = two, depth + 1  # a key with a _ in it; the registry cannot reach those
            known = shape.by_part(part)
            if known is None and not shape.is_map:
                raise _Unrecognized(shape, depth)
            known = known or Field(part.lower(), Free(), frozenset())
        else:
            key = next((key for key in table.entries if key.upper() == part), part.lower())
            known = Field(key, shape.value, frozenset())
        here = (*path, known.key)
        if last + 1 == len(self.parts):
            table.entries[known.key] = self._value(known, here)
            return
        child = table.entries.get(known.key)
        if child is None or is_null(child):
            child = self._empty(known.shape)
            self._down(child, known.shape, last + 1, here)
            table.entries[known.key] = child  # only now: an unrecognised variable leaves nothing behind
        else:
            self._down(child, known.shape, last + 1, here)

    def _into_list(self, items: Items, shape: List, depth: int, path: tuple[str | int, ...]) -> None:
        part = self.parts[depth]
        if not (part.isascii() and part.isdigit() and len(part) <= _INDEX_DIGITS):
            allowed = f"the number of an item, from 0 to {len(items.entries)}, in the variable's name"
            raise _Misplaced(Problem(self.name, joined(*path), f"got {part!r}, wanted {allowed}"))
        index = int(part)
        if index > len(items.entries):
            allowed = f"an index of at most {len(items.entries)}, the number of items that are there"
            raise _Misplaced(Problem(self.name, joined(*path), f"got {part!r}, wanted {allowed}"))
        here = (*path, index)
        if depth + 1 == len(self.parts):
            entry = self._value(Field("", shape.item, frozenset()), here)
        else:
            entry = items.entries[index] if index < len(items.entries) else self._empty(shape.item)
            self._down(entry, shape.item, depth + 1, here)
        items.entries[index : index + 1] = [entry]

    def _empty(self, shape: Shape) -> Tree:
        if isinstance(shape, List):
            return Items(self.name)
        return Scalar("", "null", self.name) if isinstance(shape, Leaf) else Table(self.name)

    def _value(self, known: Field, path: tuple[str | int, ...]) -> Tree:
        """The payload as YAML. Raises _Misplaced when it is none."""
        key = joined(*path)
        try:
            value = parse(self.payload, self.name, lines=False)
        except TreeError as error:
            raise _Misplaced(Problem(self.name, key, f"{error}; {QUOTE_INSIDE}")) from error
        stripped = self.payload.strip()
        if value is None and stripped:
            text = f"got a comment, as # begins one in YAML, wanted a value; {QUOTE_INSIDE}"
            raise _Misplaced(Problem(self.name, key, text))
        if isinstance(known.shape, Leaf) and isinstance(value, Table | Items):
            raise _Misplaced(wrong(self.name, key, value, f"a single value; {QUOTE_INSIDE}"))
        if isinstance(value, Scalar) and value.plain and value.text != stripped:
            text = "what follows ' #' in it is a comment in YAML; put the value in single quotes to keep it"
            self.warnings.append(Warning_(self.name, key, text))
        tree = value if value is not None else Scalar("", "null", self.name)
        return string_form(tree) if known.string_form else tree


def variable_of(key: str) -> str:
    """`proxy.remoteurl` -> `REGISTRY_PROXY_REMOTEURL`."""
    return PREFIX + key.replace(".", "_").upper()


def _meant(variable: _Variable, miss: _Unrecognized) -> str | None:
    """The variable that was probably meant; one that exists."""
    if variable.name in _PORTS and variable.payload.isdigit():  # not Kubernetes' tcp://10.0.0.1:5000
        return f"{variable_of('http.addr')}=:{variable.payload[:_INDEX_DIGITS]}"
    if miss.shape is None:
        return None
    before, part, behind = (
        variable.parts[: miss.depth],
        variable.parts[miss.depth],
        variable.parts[miss.depth :],
    )
    if variable.parts[:2] == _UPSTREAMS and (dotted := _dotted(variable.parts)):
        return dotted
    near = nearest(part, miss.shape.fields)
    if near is not None and _exists(name := PREFIX + "_".join([*before, near.upper(), *behind[1:]])):
        return name
    below = {
        key.replace(".", ""): key for key in paths(miss.shape)
    }  # perhaps with a `_` too many, or too few
    near = slip("".join(behind), below)
    if near is None:
        return None
    name = PREFIX + "_".join([*before, below[near].replace(".", "_").upper()])
    return name if _exists(name) else None


def _dotted(parts: list[str]) -> str | None:
    """`…_UPSTREAMS_QUAY_IO_PASSWORD` -> `QUAY.IO`: `env` and containers can set what shells cannot."""
    for end in range(4, len(parts)):
        *labels, last = parts[2:end]
        host = ".".join(labels) + (":" if last.isdigit() else ".") + last
        if _exists(name := PREFIX + "_".join([*parts[:2], host, *parts[end:]])):
            return name
    return None


def _exists(name: str) -> bool:
    try:
        _Variable(name, "").apply(Table(name))
    except _Unrecognized:
        return False
    except _Misplaced:  # a list has no such item yet
        return True
    return name != _VERSION


def string_form(tree: Tree) -> Tree:
    """`filesystem` -> `{filesystem: {}}`, where the registry allows it."""
    if isinstance(tree, Scalar) and tree.kind != "null":
        return Table(tree.source, {tree.text: Table(tree.source)})
    return tree
