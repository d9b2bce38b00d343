"""Files that the kernel has in memory, read without waiting: what an event loop may do by itself.

A way to a thread and back costs ten times as much as all that is done there for a small file that was used
before. So the loop asks in a form in which Linux never waits for a disk: openat2(2) with RESOLVE_CACHED goes
no further than names that are known, and preadv2(2) with RWF_NOWAIT no further than bytes that are there.
Whatever these do not say at once is a thread's to find out. The rules:

1. An answer is the one that a thread would find at that moment, or None: ask a thread.
2. Only what is known to keep to it: a file system of LOCAL, and what is on that one, not what is mounted, or
   linked to, below. Others (NFS, FUSE) ask somebody when a file is opened, whatever the flags.
3. No more than MOST bytes, which are copied in 10 µs. Nothing is written: no time of last access (O_NOATIME).
4. Where the system does not have it (an old kernel, a filter of system calls), it is asked once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat as modes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mirror.drivers.base import Info, PathNotFoundError

MOST = 64 << 10  # bytes
LATELY = 0.01  # seconds for which the root is taken for what it was
# As mountinfo has them (proc_pid_mountinfo(5)): those of which RWF_NOWAIT, and an open that does not wait, is
# known. ext2 and ext3 are ext4's.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})

_OPENAT2 = 437  # on every architecture (but alpha, where this is no call at all)
_AT_FDCWD = -100
_RESOLVE_NO_XDEV, _RESOLVE_CACHED = 0x01, 0x20  # linux/openat2.h
_NOATIME: int = getattr(os, "O_NOATIME", 0)
_PATH: int = getattr(os, "O_PATH", 0)
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
# NB: not EPERM, which is also said of another user's file, by O_NOATIME. Filters of system calls say it, too:
# there it is asked in vain each time, in 1 µs.
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP}


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE = ctypes.sizeof(_How)


def _how(flags: int, resolve: int) -> Any:
    """As an argument."""
    return ctypes.byref(_How(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, resolve))


_ROOT = _how(_PATH | getattr(os, "O_DIRECTORY", 0), _RESOLVE_CACHED)
_LOOK = _how(_PATH, _RESOLVE_CACHED | _RESOLVE_NO_XDEV)
_READ = _how(os.O_RDONLY | os.O_NONBLOCK | _NOATIME, _RESOLVE_CACHED | _RESOLVE_NO_XDEV)


class Cached:
    """The files below `root`. To be called by one thread, the loop's; paths have been checked."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._device = _device(root)  # st_dev of what it is on; None: nothing is read here
        # PyDLL keeps Python's lock, which is right for a call that does not wait, and takes half the time.
        self._call: Callable[..., int] = ctypes.PyDLL(None, use_errno=True).syscall
        self._opened: int | None = None  # the root
        self._until = 0.0  # time.monotonic()

    def read(self, path: str, limit: int) -> bytes | None:
        """All of a file that has at most `limit` bytes; None: ask a thread. Raises PathNotFoundError."""
        descriptor = self._open(path, _READ)
        if descriptor is None:
            return None
        try:
            found = os.fstat(descriptor)
            size = found.st_size
            if not modes.S_ISREG(found.st_mode) or size > min(limit, MOST):
                return None
            buffer = bytearray(size)
            whole = not size or os.preadv(descriptor, [buffer], 0, _NOWAIT) == size
        except OSError as error:
            if error.errno in _LACKING:
                self._device = None
            return None
        finally:
            os.close(descriptor)
        return bytes(buffer) if whole else None

    def stat(self, wanted: Sequence[str]) -> list[Info | None] | None:
        """What files are at these paths, None for what is not there; None: ask a thread."""
        found: list[Info | None] = []
        for path in wanted:
            try:
                descriptor = self._open(path, _LOOK)
            except PathNotFoundError:
                found.append(None)
                continue
            if descriptor is None:
                return None
            told = os.fstat(descriptor)
            os.close(descriptor)
            if not modes.S_ISREG(told.st_mode):
                return None
            found.append(Info(told.st_size, False, told.st_mtime))
        return found

    def close(self) -> None:
        """Nothing is said from now on. Safe to call twice."""
        self._device = None
        self._let_go()

    def _open(self, path: str, how: Any) -> int | None:
        """A descriptor of what is below the root; None: ask a thread. Raises PathNotFoundError.

        NB: another folder may have been put in its place. So the root is opened anew after LATELY, and before
        it is said of anything that it is not there.
        """
        if not path or ((self._opened is None or time.monotonic() > self._until) and not self._open_root()):
            return None
        made = self._call(_OPENAT2, self._opened, path.encode(), how, _SIZE)
        if made < 0 and ctypes.get_errno() == errno.ENOENT and self._open_root():
            made = self._call(_OPENAT2, self._opened, path.encode(), how, _SIZE)
            if made < 0 and ctypes.get_errno() == errno.ENOENT:
                raise PathNotFoundError(path, os.strerror(errno.ENOENT))
        return made if made >= 0 else None

    def _open_root(self) -> bool:
        """Whether it is what it was at the start."""
        self._let_go()
        if self._device is None:
            return False
        made: int = self._call(_OPENAT2, _AT_FDCWD, self._root, _ROOT, _SIZE)
        if made < 0:
            if ctypes.get_errno() in _LACKING:
                self._device = None
            return False
        self._opened, self._until = made, time.monotonic() + LATELY
        if os.fstat(made).st_dev != self._device:
            self._let_go()
        return self._opened is not None

    def _let_go(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None


def _device(root: Path) -> int | None:
    """The device of `root`, or of where it will be, if that is on a file system of LOCAL."""
    if not (_PATH and _NOWAIT):
        return None
    folder = root.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        descriptor = os.open(folder, _PATH | os.O_CLOEXEC)
        try:
            device = os.fstat(descriptor).st_dev
            told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        finally:
            os.close(descriptor)
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    mount = told.partition("mnt_id:")[2].split()[:1]
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[:1] == mount:
            return device if after.split()[0] in LOCAL else None
    return None
