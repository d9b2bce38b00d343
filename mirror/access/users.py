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

LINES_NAMED = 10  # of a kind
# Of the other hashes that htpasswd and crypt make, by how they begin.
_KINDS = {
    b"$apr1$": "MD5",
    b"$1$": "MD5",
    b"{SHA}": "SHA-1",
    b"{SSHA}": "SHA-1",
    b"$5$": "SHA-256",
    b"$6$": "SHA-512",
    b"$y$": "yescrypt",
    b"$argon2": "argon2",
    b"$2": "no whole bcrypt hash",
}
_LETTERS = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BCRYPT = re.compile(rb"\$2[abxy]?\$([0-9]{2})\$[./A-Za-z0-9]{53}\Z")


class UsersError(ValueError):
    """Not a file of users; the text names the line and shows nothing of it."""


@dataclass(frozen=True, slots=True)
class Users:
    """`hashes` by name, and the cost of each; `unusable`: lines whose hash can never fit, and its kind."""

    hashes: dict[bytes, bytes] = field(repr=False)
    costs: tuple[int, ...] = ()
    unusable: tuple[tuple[int, str], ...] = ()

    @property
    def passed_over(self) -> str:
        """The lines of those who cannot log in, by kind, for people: `2, 5 (MD5); 7 (SHA-1)`."""
        by_kind: dict[str, list[int]] = {}
        for number, kind in self.unusable:
            by_kind.setdefault(kind, []).append(number)
        return "; ".join(f"{_lines(numbers)} ({kind})" for kind, numbers in by_kind.items())


def parse(body: bytes) -> Users:
    """The users of a file. Raises UsersError."""
    if len(body) > FILE_LIMIT:
        raise UsersError(f"it is larger than {FILE_LIMIT >> 20} MiB")
    hashes: dict[bytes, bytes] = {}
    unusable: list[tuple[int, str]] = []
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
            unusable.append((number, kind_of(hashed)))
    costs = tuple(sorted(map(cost_of, hashes.values())))
    return Users(hashes, costs, tuple(unusable))


def is_usable(hashed: bytes) -> bool:
    """Whether this is a bcrypt hash that is checked here."""
    match = _BCRYPT.match(hashed)
    return match is not None and 4 <= int(match.group(1)) <= COST_MAX


def kind_of(hashed: bytes) -> str:
    """What an unusable hash is, as far as its form says."""
    if _BCRYPT.match(hashed):
        return f"bcrypt of a cost that is not from 4 to {COST_MAX}"
    return next((kind for prefix, kind in _KINDS.items() if hashed.startswith(prefix)), "plain text or crypt")


def _lines(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:LINES_NAMED])) + (", …" if len(numbers) > LINES_NAMED else "")


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
