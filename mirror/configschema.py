"""What shape the configuration has, read off its models: for the file, the variables and the documentation.

A shape is a struct with known keys, a map with any keys, a list, a single value (leaf), or free (whatever
stands there).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, PlainValidator

from mirror.config import Config
from mirror.configsections import Go, Section, StringForm
from mirror.configvalues import parse_duration


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single value."""

    duration: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """Anything, also nested: the registry hands it to a driver or a logger as it is."""


@dataclass(frozen=True, slots=True)
class List:
    """Items of one shape."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Map:
    """Any keys, values of one shape."""

    value: Shape


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a struct; `parts` are the names that stand for it in a variable's name."""

    key: str
    shape: Shape
    parts: frozenset[str]
    string_form: bool = False  # `storage: filesystem` stands for `storage: {filesystem: {}}`


@dataclass(frozen=True, slots=True)
class Struct:
    """Known keys. `inline` is a part of a variable's name that stands for this same struct.

    `is_map`: a map in the registry, so that a variable may create other keys (to be refused later).
    """

    fields: dict[str, Field] = field(default_factory=dict)
    inline: str = ""
    is_map: bool = False

    def by_part(self, part: str) -> Field | None:
        """The field that a part of a variable's name means."""
        return next((known for known in self.fields.values() if part in known.parts), None)


Shape = Leaf | Free | List | Map | Struct


def describe(model: type[Section]) -> Struct:
    """The shape of a model."""
    fields = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        gos = {mark.name for mark in info.metadata if isinstance(mark, Go)}
        string_form = any(isinstance(mark, StringForm) for mark in info.metadata)
        shape = _shape(info.annotation, info.metadata)
        fields[key] = Field(key, shape, frozenset({key.upper(), *gos}), string_form)
    return Struct(fields, model.go_inline, model.go_map)


def _shape(annotation: Any, metadata: Sequence[Any] = ()) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], arguments[1:])
    if origin in (Union, UnionType):  # X | None
        return _shape(next(argument for argument in arguments if argument is not type(None)), metadata)
    if origin is tuple:
        return List(_shape(arguments[0]))
    if origin is dict:
        return Map(_shape(arguments[1]))
    if annotation is Any:
        return Free()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        assert issubclass(annotation, Section)
        return describe(annotation)
    parsers = [mark.func for mark in metadata if isinstance(mark, PlainValidator)]
    return Leaf(duration=parse_duration in parsers)


def paths(shape: Shape, prefix: str = "") -> Iterator[str]:
    """Every key path below: `http.tls.key`; `[]` is a list's item, `<>` a map's key."""
    if isinstance(shape, Struct):
        for key, known in shape.fields.items():
            path = f"{prefix}.{key}" if prefix else key
            yield path
            yield from paths(known.shape, path)
    elif isinstance(shape, List):
        yield from paths(shape.item, f"{prefix}[]")
    elif isinstance(shape, Map):
        yield from paths(shape.value, f"{prefix}.<>")


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    found = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.7)
    return found[0] if found else None


def slip(key: str, known: Iterable[str]) -> str | None:
    """The known name that this one is but for the case, or one letter more, less, other or swapped."""
    slips = [name for name in known if _is_slip(key.lower(), name)]
    return next((name for name in slips if name == key.lower()), slips[0] if slips else None)


def _is_slip(key: str, name: str) -> bool:
    same = 0
    while key[same:] and key[same : same + 1] == name[same : same + 1]:
        same += 1
    left, right = key[same:], name[same:]
    swapped = left[:2] == right[1::-1] and left[2:] == right[2:]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or swapped


ROOT = describe(Config)
