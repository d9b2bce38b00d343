"""Clients that read to the end as fast as it comes, alone or several at once.

`python -m tests.bench.reading URL` is one of them as a process; it begins when a line comes.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.images import MANIFEST_TYPES

ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
TIMEOUT = 90.0  # seconds without a byte: registry:2 gives a cold HEAD's answer when it has all
CHUNK = 1 << 20  # bytes of one read


class WrongError(Exception):
    """An answer that is not what was asked for: no figure is worth anything then."""


@dataclass(frozen=True, slots=True)
class Got:
    """An answer that was read to its end; times are in seconds since the request was begun."""

    status: int
    size: int
    first: float
    seconds: float
    digest: str  # of the body, "" unless it was wanted


class Client:
    """A connection that is used again, as clients do."""

    def __init__(self, base: str) -> None:
        address = urlsplit(base)
        host, port = address.hostname or "", address.port
        if address.scheme == "https":  # a certificate of the harness' own: bytes are checked, not names
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT, context=ssl._create_unverified_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        self._view = memoryview(bytearray(CHUNK))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Safe to call twice."""
        self._connection.close()

    def get(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        digest: bool = False,
    ) -> Got:
        """Ask, and read to the end. Raises WrongError when the answer ends early."""
        began, size, hashed = time.monotonic(), 0, hashlib.sha256()
        try:
            self._connection.request(method, path, headers=ACCEPT | (headers or {}))
            with self._connection.getresponse() as response:
                promised = response.length
                head = response.read(1)
                first = time.monotonic() - began
                hashed.update(head)
                while count := response.readinto(self._view):
                    size += count
                    if digest:
                        hashed.update(self._view[:count])
                size += len(head)
                took = time.monotonic() - began
                if method != "HEAD" and promised is not None and size != promised:
                    raise WrongError(f"{size} bytes of {promised}")
                return Got(
                    response.status, size, first, took, f"sha256:{hashed.hexdigest()}" if digest else ""
                )
        except (OSError, http.client.HTTPException) as error:
            raise WrongError(f"{type(error).__name__}: {error}") from error


def get(base: str, path: str, headers: dict[str, str] | None = None, *, digest: bool = False) -> Got:
    """One request on a connection of its own."""
    with Client(base) as client:
        return client.get(path, headers, digest=digest)


def check(base: str, path: str, size: int, digest: str) -> None:
    """Raises WrongError unless these bytes are there."""
    got = get(base, path, digest=True)
    if (got.status, got.size, got.digest) != (200, size, digest):
        raise WrongError(
            f"{got.status}, {got.size} bytes of {size}, {'another' if got.size == size else ''} digest"
        )


def at_once(base: str, path: str, ranges: Sequence[tuple[int, int] | None]) -> list[Got]:
    """So many clients at the same time, each for all or for a range (first byte, behind the last)."""

    def one(wanted: tuple[int, int] | None) -> Got:
        headers = {} if wanted is None else {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}"}
        return get(base, path, headers, digest=False)

    with ThreadPoolExecutor(len(ranges)) as pool:
        return list(pool.map(one, ranges))


if __name__ == "__main__":
    _base, _, _path = sys.argv[1].partition("/v2/")
    print("ready", flush=True)  # imports are over: what is measured meanwhile can begin
    sys.stdin.readline()
    print(get(_base, f"/v2/{_path}"))
