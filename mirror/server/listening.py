"""Where the server listens, when that is no host and port: a Unix socket, or one that systemd has opened."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

FIRST = 3  # the first descriptor that systemd passes: SD_LISTEN_FDS_START, sd_listen_fds(3)
PROBE_TIMEOUT = 1.0  # seconds to learn whether somebody listens; the kernel answers at once
BACKLOG = 128  # connections that wait until the server accepts; it asks for a number of its own then
PATH_LIMIT = 107  # bytes of a socket's path, unix(7)


class ActivationError(Exception):
    """systemd has passed something else than one socket to listen on; the text says what."""


@contextmanager
def at_path(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that is bound, and taken away at the end. Raises OSError.

    Who may connect is decided by its mode, which is 0777 without the umask, and by the folders above.
    """
    made = bound(path)
    number = inode(path)
    try:
        made.listen(BACKLOG)  # a second process that comes now is to find somebody here
        yield made
    finally:
        made.close()
        remove(path, number)


def bound(path: Path, mode: int | None = None) -> socket.socket:
    """A socket of ours at `path`, with that mode, that does not listen yet. Blocks. Raises OSError.

    One that a dead process left is replaced; one at which somebody answers is not (EADDRINUSE), nor is any
    other file (EEXIST).
    """
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {PATH_LIMIT} bytes")
    if _is_abandoned(path):
        path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        if mode is not None:
            path.chmod(mode)  # nobody can connect before it listens
    except BaseException:
        made.close()
        raise
    return made


def _is_abandoned(path: Path) -> bool:
    """Whether there is a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file of that name that is no socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except (TimeoutError, BlockingIOError):  # its queue is full: somebody is alive, and busy
            pass
    raise OSError(errno.EADDRINUSE, "somebody answers there")


def remove(path: Path, number: int | None) -> None:
    """Take our socket, of that inode, away, unless another's has its name by now."""
    if number is not None and inode(path) == number:
        with contextlib.suppress(OSError):
            path.unlink()


def inode(path: Path) -> int | None:
    """Which file has this name now."""
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def activated(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The socket that systemd has opened for this process; None where it has passed none.

    Takes the variables away, so that no program that is started from here takes them for its own.
    Raises ActivationError.
    """
    number = environ.pop("LISTEN_FDS", "")
    for_whom = environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if number in ("", "0") or for_whom != str(os.getpid()):
        return None
    if number != "1":
        raise ActivationError(f"systemd has passed {number[:20]} sockets, wanted one: one Listen… line")
    os.set_inheritable(FIRST, False)
    try:
        given = socket.socket(fileno=FIRST)
        listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ActivationError(f"systemd has passed no socket: {error.strerror}") from error
    if given.type != socket.SOCK_STREAM or not listens:
        given.detach()
        text = "systemd has passed a socket that does not listen: write ListenStream=, and Accept=no"
        raise ActivationError(text)
    return given
