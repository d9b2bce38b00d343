"""What was probably meant by a key that nobody knows, or by something else where a section belongs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from mirror.confignames import OPEN, parse_namespace
from mirror.configproblems import joined, text_of
from mirror.configproxy import Proxy
from mirror.configschema import nearest, slip
from mirror.configtree import Items, Table, Tree
from mirror.configvalues import parse_duration

UPSTREAMS: Final = ("proxy", "upstreams")
FRESHNESS: Final = ("proxy", "freshness")
_KEEPING: Final = (("storage",), ("cache",))
NAMES_SHOWN: Final = 5  # namespaces in a message: enough to see the form

# Words of other tools' configuration for a registry.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "pass": "password",
    "token": "identitytoken",
    "url": "remoteurl",
    "urls": "remoteurls",
    "user": "username",
}

Keys = tuple[str | int, ...]


def meant(key: str, known: Collection[str]) -> str | None:
    """The known key that this one is but for a slip, or in other tools' words."""
    word = _ELSEWHERE.get(key.lower())
    return slip(key, known) or (word if word in known else None)


def unknown_key(key: str, known: Collection[str], at: Keys) -> str:
    """Why an unknown key stops the start; "" where it is worth a warning only.

    A slip below `proxy` does: what was meant is where images come from, and where the login goes. So does
    every one in `proxy.upstreams`: it is the mirror's own, and no file of the registry's has a key in there.
    Below `storage` and `cache` a slip does: it is where images are kept, with which login, and how many. What
    is only near a known key does below `cache` alone, which is the mirror's own: in a file of the registry's
    it has been ignored all the time.
    """
    if at[:1] in _KEEPING:
        if exact := meant(key, known):
            return f"unknown key; write {joined(*at, exact)}"
        near = nearest(key, known) if at[:1] == ("cache",) else None
        return f"unknown key; did you mean {joined(*at, near)}?" if near else ""
    if at[:1] != ("proxy",):
        return ""
    ours = at[:2] == UPSTREAMS
    exact = meant(key, known) if ours else slip(key, known)
    if exact:
        return f"unknown key; write {joined(*at, exact)}"
    if not ours:
        return ""
    if len(at) == 3 and key in Proxy.model_fields:
        return f"not a key of one upstream; write {joined('proxy', key)}, which is for all of them"
    near = nearest(key, known)
    if near:
        return f"unknown key; did you mean {joined(*at, near)}?"
    return f"unknown key; there are {', '.join(sorted(known))}"


def read_as(key: str, known: Collection[str], at: Keys) -> str | None:
    """The known key that an unknown one below `storage` or `cache` is but for a slip.

    The start is stopped anyway; what stands there is checked in its place, so that no key counts as missing.
    """
    return slip(key, known) if at[:1] in _KEEPING else None


def section_form(given: Tree, at: Keys) -> str:
    """What is wanted where something else than a section stands, as it would be written."""
    if at == FRESHNESS:
        return f"a section of keys: write freshness: {{default: {_duration(given)}}}"
    if at == UPSTREAMS:
        return f"a section of namespaces: write upstreams: {{{_entries(given)}}}"
    if at[:2] == UPSTREAMS and len(at) == 3:
        return "a section of keys, such as {remoteurl: https://…}, or {} where the name says it all"
    return "a section of keys"


def _duration(given: Tree) -> str:
    text = text_of(given) or ""
    text += "s" if text.isdigit() and text.strip("0") else ""  # nanoseconds are not what was meant
    try:
        parse_duration(text)
    except ValueError:
        return "1m"
    return text


def _entries(given: Tree) -> str:
    """The names in a list, or the one that stands there, as keys."""
    items = given.entries if isinstance(given, Items) else [] if isinstance(given, Table) else [given]
    names = []
    for item in items:
        try:
            names.append(parse_namespace(text_of(item)))
        except ValueError:
            continue
    shown = [_quoted(name) + ": {}" for name in names[:NAMES_SHOWN] or ["quay.io"]]
    return ", ".join(shown + ["…"] * (len(names) > NAMES_SHOWN))


def _quoted(name: str) -> str:
    return f'"{name}"' if OPEN in name or ":" in name else name
