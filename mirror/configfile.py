"""A file in registry:2's or registry:3's form and REGISTRY_* variables -> Config.

What nobody knows is ignored with a warning, as the registry ignores it in silence; what is known and cannot
be used stops the start. Messages name the file and line, or the variable, and show no secrets.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from mirror.config import VERSION, Config
from mirror.configdump import dump
from mirror.configeffect import STORAGE_OPTIONS, apply_rules, check_driver
from mirror.configenv import overlay, string_form
from mirror.configproblems import ConfigError, Problem, Warning_, find, joined, show, text_of
from mirror.configschema import ROOT, Free, Leaf, List, Map, Shape, Struct, nearest, paths
from mirror.configtree import Items, Scalar, Table, Tree, TreeError, is_null, parse, resolved

__all__ = ["ConfigError", "Loaded", "Warning_", "dump", "load"]

FILE_LIMIT: Final = 1 << 20  # bytes; of the file, and of the one with CA certificates
NO_FILE_ROOT: Final = "./data"  # where images are kept when there is no file that says it
NO_FILE: Final = "defaults"  # the source of what is in no file and no variable


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what is to be said about it."""

    config: Config
    warnings: tuple[Warning_, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """The configuration of a file, or the defaults where `path` is None, with the variables laid over it.

    Raises ConfigError, whose text is one line for each problem.
    """
    tree = Table(NO_FILE) if path is None else _read(path)
    _normalise(tree)
    problems, warnings = overlay(tree, environ)
    _old_names(tree, warnings)
    if path is None:
        _defaults_without_file(tree)
    checked = _Conformer()
    data = checked.conform(tree, ROOT, ())
    refused, remarks = apply_rules(tree)
    problems += [*checked.problems, *refused, *check_driver(tree)]
    warnings += [*checked.warnings, *remarks]
    config = _validate(data, tree, problems)
    if config is not None:
        problems += _check_ca(config, tree)
    if problems or config is None:
        raise ConfigError(*problems)
    return Loaded(config, tuple(warnings))


def _read(path: Path) -> Table:
    """The file's tree, with the version checked."""
    try:
        with path.open("rb") as file:
            body = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(body) > FILE_LIMIT:
        raise ConfigError(f"{path}: larger than {FILE_LIMIT >> 20} MiB: not a configuration file")
    try:
        tree = parse(body.decode("utf-8-sig"), str(path), lines=True)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except TreeError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from error
    if tree is None or is_null(tree):
        raise ConfigError(f"{path}: empty: the least is a line `version: {VERSION}` and a storage section")
    if not isinstance(tree, Table):
        raise ConfigError(f"{path}: not a section with keys such as version, storage, http and proxy")
    tree.source = str(path)  # what is nowhere in the file is on no line of it
    version = tree.entries.get("version")
    if text_of(version) != VERSION:
        source = version.source if version else str(path)
        raise ConfigError(Problem(source, "version", show("version", version), f"version: {VERSION}"))
    return tree


def _normalise(tree: Table) -> None:
    for key, known in ROOT.fields.items():
        if known.string_form and key in tree.entries:
            tree.entries[key] = string_form(tree.entries[key])


def _old_names(tree: Table, warnings: list[Warning_]) -> None:
    """`loglevel` is `log.level` where that is not given, as in the registry."""
    old = tree.entries.pop("loglevel", None)
    if old is None or is_null(old):
        return
    warnings.append(Warning_(old.source, "loglevel", "deprecated: write log.level"))
    log = tree.entries.get("log")
    if log is None or is_null(log):
        log = tree.entries["log"] = Table(old.source)
    if isinstance(log, Table) and is_null(log.entries.get("level")):
        log.entries["level"] = old


def _defaults_without_file(tree: Table) -> None:
    """Without a file: the folder `./data`, unless a variable names a driver or a folder."""
    storage = tree.entries.get("storage")
    if storage is None or is_null(storage):
        storage = tree.entries["storage"] = Table(NO_FILE)
    if not isinstance(storage, Table):
        return
    if not set(storage.entries) - STORAGE_OPTIONS:
        storage.entries["filesystem"] = Table(NO_FILE)
    filesystem = storage.entries.get("filesystem")
    if filesystem is not None and is_null(filesystem):
        filesystem = storage.entries["filesystem"] = Table(filesystem.source)
    if isinstance(filesystem, Table) and is_null(filesystem.entries.get("rootdirectory")):
        filesystem.entries["rootdirectory"] = Scalar(NO_FILE_ROOT, "str", NO_FILE)


class _Conformer:
    """The tree as plain data of the schema's shape: the unknown is left out, other shapes are noted."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Warning_] = []

    def conform(self, tree: Tree, shape: Shape, path: tuple[str | int, ...]) -> Any:
        if isinstance(shape, Free):
            return resolved(tree)
        if isinstance(shape, Leaf):
            return self._leaf(tree, shape, path)
        if isinstance(shape, List):
            if isinstance(tree, Items):
                return [self.conform(entry, shape.item, (*path, n)) for n, entry in enumerate(tree.entries)]
            return [] if is_null(tree) else self._mismatch(tree, "a list, such as [a, b]", path)
        if isinstance(tree, Table):
            return self._table(tree, shape, path)
        return {} if is_null(tree) else self._mismatch(tree, "a section of keys", path)

    def _leaf(self, tree: Tree, shape: Leaf, path: tuple[str | int, ...]) -> Any:
        if not isinstance(tree, Scalar):
            return self._mismatch(tree, "a single value", path)
        if shape.duration and tree.text.isascii() and tree.text.isdigit() and tree.text.strip("0"):
            number = tree.text[:20]
            text = f"{number} is in nanoseconds, as in the registry; write a unit, such as {number}s"
            self.warnings.append(Warning_(tree.source, joined(*path), text))
        return "" if is_null(tree) else tree.text

    def _table(self, table: Table, shape: Struct | Map, path: tuple[str | int, ...]) -> dict[str, Any]:
        data = {}
        for key, entry in table.entries.items():
            below = shape.value if isinstance(shape, Map) else None
            if isinstance(shape, Struct):
                if key not in shape.fields:
                    self._unknown(key, entry, shape, path)
                    continue
                below = shape.fields[key].shape
            assert below is not None
            if isinstance(below, Leaf | Free) and (is_null(entry) or text_of(entry) == ""):
                continue  # `key:` and `key: ""` are the default, as Go's empty values are in the registry
            data[key] = self.conform(entry, below, (*path, key))
        return data

    def _unknown(self, key: str, entry: Tree, shape: Struct, path: tuple[str | int, ...]) -> None:
        if shape.is_map:
            return  # check_driver speaks about it
        near = nearest(key, list(shape.fields))
        if near is not None:
            meant = joined(*path, near)
        else:  # perhaps it stands at the wrong place
            meant = next((known for known in paths(ROOT) if known.endswith(f".{key}")), "")
        hint = f"; did you mean {meant}?" if meant else ""
        self.warnings.append(Warning_(entry.source, joined(*path, key)[:200], f"unknown key, ignored{hint}"))

    def _mismatch(self, tree: Tree, allowed: str, path: tuple[str | int, ...]) -> Any:
        key = joined(*path)
        self.problems.append(Problem(tree.source, key, show(key, tree), allowed))
        return _WRONG


_OTHER: Final = {"missing": "a value; this key is required here"}  # what no parser of ours says
_WRONG: Final = object()  # stands where a problem was noted already; no model takes it


def _validate(data: Any, tree: Table, problems: list[Problem]) -> Config | None:
    """The models' verdict. Adds to `problems`, and returns None then."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = tuple(found["loc"])
            context = found.get("ctx", {})
            path += (context["key"],) if "key" in context else ()
            at, source = find(tree, path)
            key = joined(*path)
            if any(known.key == key for known in problems):
                continue  # of the wrong shape, said already
            allowed = str(
                context.get("error") or context.get("allowed") or _OTHER.get(found["type"], found["msg"])
            )
            problems.append(Problem(source, key, show(key, at), allowed))
        return None


def _check_ca(config: Config, tree: Table) -> list[Problem]:
    """The CA file must hold certificates now: later it would look like an upstream that is down."""
    if config.proxy.ca is None:
        return []
    _, source = find(tree, ("proxy", "ca"))
    given = repr(str(config.proxy.ca))
    try:
        with config.proxy.ca.open("rb") as file:
            body = file.read(FILE_LIMIT + 1)
        if len(body) > FILE_LIMIT:
            return [Problem(source, "proxy.ca", given, f"a file of at most {FILE_LIMIT >> 20} MiB")]
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=body.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):  # ValueError: nothing at all in it
        return [Problem(source, "proxy.ca", given, "a file with CA certificates in PEM form")]
    except OSError as error:
        return [Problem(source, "proxy.ca", given, f"a file that can be read ({error.strerror})")]
    return []
