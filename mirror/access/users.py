"""An htpasswd file, as Apache writes it and distribution reads it: `name:hash` lines, bcrypt only.

Blank lines and those that begin with `#` are passed over; of two lines for one name the last counts; a line
without a colon makes the whole file unusable, since nobody can tell whom it was to let in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FILE_LIMIT = 4 << 20  # bytes; some 50,000 users
# A hash of cost n takes 2**n rounds: 10 some 70 ms, 14 over a second, 17 nine. What is above would keep a
# thread busy for longer than any client waits.
COST_MAX = 17
PASSWORD_BYTES = 72  # of a password count for bcrypt; libraries differ in whether the rest is an error

SALT_LETTERS = 22  # of base64 with bcrypt's own alphabet, 16 bytes

_LETTERS = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BCRYPT = re.compile(rb"\$2[abxy]?\$([0-9]{2})\$[./A-Za-z0-9]{53}\Z")


class UsersError(ValueError):
    """Not a file of users; the text names the line and shows nothing of it."""


@dataclass(frozen=True, slots=True)
class Users:
    """`hashes` by name, and the cost of each; `unusable` are the lines whose hash can never fit."""

    hashes: dict[bytes, bytes] = field(repr=False)
    costs: tuple[int, ...] = ()
    unusable: tuple[int, ...] = ()


def parse(body: bytes) -> Users:
    """The users of a file. Raises UsersError."""
    if len(body) > FILE_LIMIT:
        raise UsersError(f"it is larger than {FILE_LIMIT >> 20} MiB")
    hashes: dict[bytes, bytes] = {}
    unusable: list[int] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        entry = line.strip()
        if not entry or entry.startswith(b"#"):
            continue
        name, colon, hashed = entry.partition(b":")
        if not colon:
            raise UsersError(f"line {number} is not of the form name:hash")
        hashes.pop(name, None)
        if is_usable(hashed):
            hashes[name] = _canonical(hashed)
        else:
            unusable.append(number)
    costs = tuple(sorted(map(cost_of, hashes.values())))
    return Users(hashes, costs, tuple(unusable))


def is_usable(hashed: bytes) -> bool:
    """Whether this is a bcrypt hash that is checked here."""
    match = _BCRYPT.match(hashed)
    return match is not None and 4 <= int(match.group(1)) <= COST_MAX


def _canonical(hashed: bytes) -> bytes:
    """The same hash as libraries want it: Python's raises about what Go's reads.

    `$2$` is bcrypt's first name, and the salt's 22nd letter has four bits that belong to no byte of it.
    """
    _, version, cost, rest = hashed.split(b"$", 3)
    last = _LETTERS.index(rest[SALT_LETTERS - 1]) & ~0xF
    salt = rest[: SALT_LETTERS - 1] + _LETTERS[last : last + 1]
    return b"$%b$%b$%b%b" % (b"2b" if version == b"2" else version, cost, salt, rest[SALT_LETTERS:])


def cost_of(hashed: bytes) -> int:
    """The cost of a usable hash."""
    match = _BCRYPT.match(hashed)
    assert match is not None
    return int(match.group(1))
