"""How many files may be open, and how many clients may connect so that some are left for answers."""

from __future__ import annotations

import resource

# Standard streams, the event loop's, the listening socket, a token request, the store's own short looks.
FILES_ASIDE = 64
FILES_EACH = 2  # a client's connection, and the file or the upstream connection that its answer comes from
MOST = 10_000  # connections; each takes 6 KiB of memory before it asks for anything
LEAST = 16  # connections; below that no daemon could pull
UNLIMITED = 1 << 20  # files; what "no limit" is taken for, which is Linux' fs.nr_open


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


def connections_max() -> int:
    """How many clients may be connected under the present limit of open files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(LEAST, min((_number(soft) - FILES_ASIDE) // FILES_EACH, MOST))


def _number(limit: int) -> int:
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit
