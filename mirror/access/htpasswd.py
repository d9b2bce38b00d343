"""`auth.htpasswd`: users and passwords of a file.

1. The file is looked at once in LOOK at most, off the event loop, and read again when it has changed. What
   was believed on the word of the old one is forgotten. A file that cannot be read, or makes no sense, lets
   nobody in.
2. bcrypt takes some 70 ms of a processor on purpose. Checks wait for their turn (`checks`), and the same
   check is made once for all who ask at the same time.
3. A password that was right is remembered for REMEMBERED: as a keyed hash whose key dies with the process.
   One that was wrong is checked again each time.
4. A name that is not in the file costs what one that is there costs: it is checked against a hash that fits
   nothing, of a cost that the file has, always the same for the same name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import structlog
from cachetools import TTLCache

from mirror.access import basic, users
from mirror.access.base import Allowed, Asked, Refused, challenge, nothing_given
from mirror.access.checks import Busy, Turns, client_of
from mirror.coalesce import Coalescer
from mirror.oci.errors import ErrorCode

LOOK = 1.0  # seconds; how late a change of the file may take effect
LOOK_TIMEOUT = 5.0  # seconds until a file system that does not answer counts as no file
REMEMBERED = 600.0  # seconds
LOGINS = 4096  # that are remembered; each of some 300 bytes
RETRY_AFTER = 2.0  # seconds
WORKERS_MAX = 4  # threads; what is left of the processors is for answers
NEW_USER = "docker"  # of a file that is made here, as in registry:3
NEW_COST = 10  # Go's default
DUMMY_COST = 10  # for a file without a single usable hash
_SALT_AND_HASH = b"." * 53  # of no password

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Read:
    """The file as it was read. `stamp` changes when it does; `reason` says why there are no users."""

    stamp: tuple[int, ...]
    users: users.Users | None
    reason: str = ""


class Htpasswd:
    """An AccessController for a file of users. `now` is a monotonic clock, in seconds."""

    def __init__(self, realm: str, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._challenge = challenge("Basic", realm=realm)
        self._path = path
        self._now = now
        self._file = _Read((), None, "it was not read yet")
        self._looked = -LOOK
        self._looks: Coalescer[None, None] = Coalescer()
        self._checks: Coalescer[bytes, bool] = Coalescer()
        self._turns = Turns(max(2, min(WORKERS_MAX, (os.cpu_count() or 2) // 2)))
        self._key = secrets.token_bytes(32)
        self._logins: TTLCache[bytes, bool] = TTLCache(LOGINS, REMEMBERED, timer=now)

    async def authorize(self, asked: Asked) -> Allowed:
        """Raises Refused: UNAUTHORIZED, UNAVAILABLE without a file, TOOMANYREQUESTS when too much waits."""
        login = basic.parse(asked.authorization)
        if login is None:
            raise Refused(nothing_given(asked.authorization), [self._challenge])
        file = await self._current()
        if file.users is None:
            raise Refused(
                f"the file of users cannot be used: {file.reason}",
                code=ErrorCode.UNAVAILABLE,
                message="this mirror cannot check logins now: see its log",
            )
        user, password = login
        if not user and user not in file.users.hashes:  # what podman sends when it has no login
            raise Refused("an empty user name was sent", [self._challenge])
        if not await self._is_right(file, user, password, asked.address):
            raise Refused(f"no such user, or another password: {_shown(user)}", [self._challenge])
        return Allowed(_shown(user), lambda: self._holds(file))

    def _holds(self, file: _Read) -> bool:
        return file is self._file and self._now() - self._looked < LOOK

    async def _is_right(self, file: _Read, user: bytes, password: bytes, address: str) -> bool:
        """Raises Refused when too much waits."""
        assert file.users is not None
        key = self._digest(len(user).to_bytes(4, "big"), user, password)
        if self._logins.get(key):
            return True
        hashed = file.users.hashes.get(user)
        dummy = self._dummy(file.users, user)
        against = hashed or dummy

        async def check() -> bool:
            right = await self._turns.run(client_of(address), lambda: _fits(password, against))
            if right and hashed is not None and file is self._file:
                self._logins[key] = True
            return right and hashed is not None

        try:
            # NB: `stamp`: what is checked against the old file says nothing of the new one.
            return await self._checks.run(self._digest(key, repr(file.stamp).encode()), check)
        except Busy:
            raise Refused(
                "too many logins wait to be checked",
                code=ErrorCode.TOOMANYREQUESTS,
                message="too many logins are being checked: try again in a moment",
                retry_after=RETRY_AFTER,
            ) from None

    def _dummy(self, known: users.Users, user: bytes) -> bytes:
        """A hash that nothing fits, and that takes as long as some user's."""
        costs = known.costs
        if not costs:
            return b"$2b$%02d$%b" % (DUMMY_COST, _SALT_AND_HASH)
        number = int.from_bytes(self._digest(b"cost", user)[:8], "big")
        return b"$2b$%02d$%b" % (costs[number % len(costs)], _SALT_AND_HASH)

    def _digest(self, *parts: bytes) -> bytes:
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).digest()

    async def _current(self) -> _Read:
        """The file as it is now, or was LOOK ago."""
        if self._now() - self._looked >= LOOK:
            task = self._looks.start(None, self._look)
            await asyncio.wait({task}, timeout=LOOK_TIMEOUT)
            if not task.done():
                return _Read((), None, f"the file system did not answer within {LOOK_TIMEOUT:g} s")
        return self._file

    async def _look(self) -> None:
        """Read the file if it has changed."""
        began = self._now()
        found = await asyncio.to_thread(_read, self._path, self._file)
        if found is not self._file:
            self._file = found
            self._logins.clear()
            if found.users is None:
                log.error("auth.htpasswd.unusable", path=str(self._path), reason=found.reason)
            else:
                log.info("auth.htpasswd.read", path=str(self._path), users=len(found.users.hashes))
                if found.users.unusable:
                    log.warning(
                        "auth.htpasswd.not_bcrypt", path=str(self._path), lines=found.users.passed_over
                    )
        self._looked = began

    async def close(self) -> None:
        """End the checks that wait."""
        await self._turns.close()
        await self._checks.close()
        await self._looks.close()


def _read(path: Path, before: _Read) -> _Read:
    """The file; `before` where it has not changed. Called in a thread."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns)
            if stamp == before.stamp:
                return before
            body = file.read(users.FILE_LIMIT + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        return before if before.users is None and before.reason == reason else _Read((), None, reason)
    try:
        return _Read(stamp, users.parse(body))
    except users.UsersError as error:
        return _Read(stamp, None, str(error))


def _fits(password: bytes, hashed: bytes) -> bool:
    """Whether this is the password. Called in a thread; the interpreter's lock is free meanwhile."""
    return bcrypt.checkpw(password[: users.PASSWORD_BYTES], hashed)


def _shown(user: bytes) -> str:
    return user[:200].decode("utf-8", "backslashreplace")


def create_if_missing(path: Path) -> str | None:
    """Make a file with one user and a random password, as registry:3 does; the password, or None.

    Raises OSError. Called at the start, before anything is served.
    """
    if path.exists():
        return None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = secrets.token_urlsafe(32)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(NEW_COST))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(NEW_USER.encode() + b":" + hashed + b"\n")
    return password
