"""A file in registry:2's or registry:3's form and REGISTRY_* variables -> Config.

What nobody knows is ignored with a warning, as the registry ignores it in silence; what is known and cannot
be used stops the start. Messages name the file and line, or the variable, and show no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from mirror.config import VERSION, Config
from mirror.configaccess import check_auth, check_auth_files, check_rights, doubtful_auth
from mirror.configdump import dump
from mirror.configeffect import STORAGE_OPTIONS, apply_rules, check_driver
from mirror.configenv import overlay, string_form, variable_of
from mirror.confighints import meant, read_as, section_form, unknown_key
from mirror.configlisten import check_listening
from mirror.configproblems import ConfigError, Problem, Warning_, find, is_given, joined, text_of, wrong
from mirror.configremote import check_remote
from mirror.configschema import ROOT, Free, Leaf, List, Map, Shape, Struct, nearest, paths
from mirror.configtree import Items, Scalar, Table, Tree, TreeError, is_null, parse, resolved
from mirror.configupstream import REMOTEURL, check_default, check_keys, check_names, check_urls, doubtful
from mirror.configusable import check_files, check_programs

__all__ = ["ConfigError", "Loaded", "Warning_", "dump", "load"]

FILE_LIMIT: Final = 1 << 20  # bytes; the largest real files have some tens of KiB
NO_FILE_ROOT: Final = "./data"  # where images are kept when there is no file that says it
NO_FILE: Final = "defaults"  # the source of what is in no file and no variable


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what is to be said about it."""

    config: Config
    warnings: tuple[Warning_, ...]


def load(path: Path | None, environ: Mapping[str, str], *, serving: bool = True) -> Loaded:
    """The configuration of a file, or the defaults where `path` is None, with the variables laid over it.

    Not `serving`: to be looked at, by somebody who may not read all that the mirror's user may: keys and
    logins. That they cannot be read is a warning then.

    Raises ConfigError, whose text is one line for each problem, with what was ignored beside that.
    """
    tree = Table(NO_FILE) if path is None else _read(path)
    is_s3aws = _normalise(tree)
    problems, warnings = overlay(tree, environ)
    _old_names(tree, warnings)
    if path is None:
        _defaults_without_file(tree)
    checked = _Conformer()
    data = checked.conform(tree, ROOT, ())
    refused, remarks = apply_rules(tree)
    meant = [said.source for said in warnings if said.text.endswith(f"{variable_of(REMOTEURL)}?")]
    unnamed, doubts = check_default(tree, from_file=path is not None, ignored=meant)
    ignored = [*warnings, *checked.warnings]
    closed = tuple(problem.key for problem in refused)
    problems += [*refused, *(found for found in checked.problems if not _is_below(found.key, closed))]
    problems += [*check_driver(tree), *unnamed, *check_keys(tree), *check_auth(tree)]
    warnings += [*checked.warnings, *remarks, *doubts]
    config = _validate(data, tree, problems, closed)
    if config is not None:
        proxy = config.proxy
        problems += [*check_names(proxy, tree), *check_urls(proxy, tree), *check_files(proxy, tree)]
        problems += [*check_auth_files(config.auth, tree), *check_rights(proxy, config.auth, tree)]
        unheard, remarks = check_listening(config.http, tree)
        problems += unheard
        clashes, idle = check_remote(config, tree)
        problems += clashes
        warnings += [
            *idle,
            *remarks,
            *doubtful_auth(config.auth, tree),
            *doubtful(proxy, tree),
            *check_programs(proxy, tree, environ),
        ]
    if not serving:
        warnings += [Warning_(known.source, known.key, known.text) for known in problems if known.closed]
        problems = [known for known in problems if not known.closed]
    if is_s3aws:
        problems, warnings, ignored = _as_written(problems), _as_written(warnings), _as_written(ignored)
    if problems or config is None:
        beside = tuple(sorted(ignored, key=_place_in(path)))
        raise ConfigError(*sorted(problems, key=_place_in(path)), ignored=beside)
    return Loaded(config, tuple(sorted(warnings, key=_place_in(path))))


_Said = TypeVar("_Said", Problem, Warning_)


def _as_written(said: list[_Said]) -> list[_Said]:
    """With the name that the section of S3 has in the file."""
    old, new = "storage.s3.", "storage.s3aws."
    return [replace(each, key=each.key.replace(old, new), text=each.text.replace(old, new)) for each in said]


def _is_below(key: str, refused: tuple[str, ...]) -> bool:
    """Whether this is a part of a key that is refused anyway: one line is enough."""
    return any(key == above or key.startswith((f"{above}.", f"{above}[")) for above in refused)


def _place_in(path: Path | None) -> Callable[[Problem | Warning_], tuple[int, int]]:
    """The order of what is said: as the file's lines, then the variables as they were applied."""

    def place(said: Problem | Warning_) -> tuple[int, int]:
        if path is None or not said.source.startswith(str(path)):
            return 1, 0
        line = re.search(r":([0-9]+)\Z", said.source)
        return 0, int(line.group(1)) if line else 0

    return place


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
        raise ConfigError(f"{path}:{error.line}:{error.column}: {error}") from error
    if tree is None or is_null(tree):
        raise ConfigError(f"{path}: empty: the least is a line `version: {VERSION}` and a storage section")
    if not isinstance(tree, Table):
        raise ConfigError(f"{path}: not a section with keys such as version, storage, http and proxy")
    tree.source = str(path)  # what is nowhere in the file is on no line of it
    version = tree.entries.get("version")
    if text_of(version) != VERSION:
        source = version.source if version else str(path)
        raise ConfigError(wrong(source, "version", version, VERSION))
    return tree


def _normalise(tree: Table) -> bool:
    """Whether the file calls the section of S3 by registry:2's other name."""
    for key, known in ROOT.fields.items():
        if known.string_form and key in tree.entries:
            tree.entries[key] = string_form(tree.entries[key])
    storage = tree.entries.get("storage")
    if isinstance(storage, Table) and "s3aws" in storage.entries and "s3" not in storage.entries:
        storage.entries["s3"] = storage.entries.pop("s3aws")
        return True
    return False


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
        return {} if is_null(tree) else self._mismatch(tree, section_form(tree, path), path)

    def _leaf(self, tree: Tree, shape: Leaf, path: tuple[str | int, ...]) -> Any:
        if not isinstance(tree, Scalar):
            allowed = "a single value; one with a colon and a space in it, or { or [ first, needs quotes"
            return self._mismatch(tree, allowed, path)
        if shape.duration and tree.text.isascii() and tree.text.isdigit() and tree.text.strip("0"):
            number = tree.text[:20]
            text = f"{number} is in nanoseconds, as in the registry; write a unit, such as {number}s"
            self.warnings.append(Warning_(tree.source, joined(*path), text))
        return "" if is_null(tree) else tree.text

    def _table(self, table: Table, shape: Struct | Map, path: tuple[str | int, ...]) -> dict[str, Any]:
        data = {}
        if isinstance(shape, Struct):
            self._take_unknown(table, shape, path)
        for key, entry in table.entries.items():
            below = shape.value if isinstance(shape, Map) else None
            if isinstance(shape, Struct):
                if key not in shape.fields:
                    continue
                below = shape.fields[key].shape
            assert below is not None
            if isinstance(below, Leaf | Free) and not is_given(entry):
                continue  # `key:` and `key: ""` are the default, as Go's empty values are in the registry
            data[key] = self.conform(entry, below, (*path, key))
        return data

    def _take_unknown(self, table: Table, shape: Struct, path: tuple[str | int, ...]) -> None:
        """Note them; one that is but a slip below `storage` or `cache` gets its right name in the tree."""
        for key, entry in list(table.entries.items()):
            if key in shape.fields:
                continue
            self._unknown(key, entry, shape, path)
            right = None if shape.is_map else read_as(key, shape.fields, path)
            if right is not None and right not in table.entries:
                table.entries[right] = table.entries.pop(key)

    def _unknown(self, key: str, entry: Tree, shape: Struct, path: tuple[str | int, ...]) -> None:
        if shape.is_map:
            return  # check_driver and check_auth speak about it
        if text := unknown_key(key, shape.fields, path):
            self.problems.append(Problem(entry.source, joined(*path, key)[:200], text))
            return
        near = meant(key, shape.fields) or nearest(key, shape.fields)
        if near is not None:
            known = joined(*path, near)
        else:  # perhaps it stands at the wrong place
            known = next((known for known in paths(ROOT) if known.endswith(f".{key}")), "")
        hint = f"; did you mean {known}?" if known else ""
        self.warnings.append(Warning_(entry.source, joined(*path, key)[:200], f"unknown key, ignored{hint}"))

    def _mismatch(self, tree: Tree, allowed: str, path: tuple[str | int, ...]) -> Any:
        key = joined(*path)
        self.problems.append(wrong(tree.source, key, tree, allowed))
        return _WRONG


_OTHER: Final = {"missing": "a value; this key is required here"}  # what no parser of ours says
_KEY: Final = "[key]"  # what pydantic says behind the key of a map that is itself wrong
_WRONG: Final = object()  # stands where a problem was noted already; no model takes it


def _validate(data: Any, tree: Table, problems: list[Problem], refused: tuple[str, ...]) -> Config | None:
    """The models' verdict. Adds to `problems`, and returns None then."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = tuple(found["loc"])
            named = path[-1:] == (_KEY,)
            at, source = find(tree, path[:-1] if named else path)
            if named:  # what is wrong is the key in front of it
                at, path = Scalar(str(path[-2]), "str", source), path[:-2]
            key = joined(*path)
            if _is_below(key, refused) or (not named and any(known.key == key for known in problems)):
                continue  # said already
            allowed = str(found.get("ctx", {}).get("error") or _OTHER.get(found["type"], found["msg"]))
            problems.append(wrong(source, key, at, allowed))
        return None
