"""What clients may take of the server: how many connections, how much of a head, how much time.

How many there may be at once follows from how many files may be open, so that some are left for answers.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

# Standard streams, the event loop's, the listening socket, a token request, the store's own short looks.
FILES_ASIDE = 64
FILES_EACH = 2  # a client's connection, and the file or the upstream connection that its answer comes from
MOST = 10_000  # connections; each takes 6 KiB of memory before it asks for anything
LEAST = 16  # connections; below that no daemon could pull
UNLIMITED = 1 << 20  # files; what "no limit" is taken for, which is Linux' fs.nr_open

HEAD_SIZE = 64 << 10  # bytes of a request line and headers; the longest bearer tokens have some 20 KiB
HEAD_TIMEOUT = 10.0  # seconds until a request line and headers are there, once begun; nginx has 60


@dataclass(frozen=True, slots=True)
class Limits:
    """`http.limits`, as far as connections are bounded by it before a request is known.

    `connections` 0: as many as the limit of open files has room for, and MOST. `per_client` 0: half of them,
    so that no client takes the places of all others, whatever the number of hosts behind its address.
    """

    connections: int = 0
    per_client: int = 0
    head_size: int = HEAD_SIZE
    head_timeout: float = HEAD_TIMEOUT

    def counted(self) -> tuple[int, int]:
        """How many connections there may be under the present limit of open files: in all, of a client."""
        most = connections_max(self.connections)
        return most, min(most, self.per_client or max(most // 2, min(most, LEAST)))


def raise_open_files() -> int:
    """Raise the process' limit of open files as far as it may; returns what it is now.

    systemd and shells give 1024 to begin with, for programs that use select(2), and allow far more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _number(hard)
    if _number(soft) < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS allows less than it says
            return _number(soft)
    return max(wanted, _number(soft))


def connections_max(wanted: int = 0) -> int:
    """How many clients may be connected under the present limit of open files; `wanted` of them at most."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(LEAST, (_number(soft) - FILES_ASIDE) // FILES_EACH)
    return min(possible, wanted or MOST)


def _number(limit: int) -> int:
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit
