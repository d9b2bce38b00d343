"""How files and folders leave a disk. Everything here blocks. No link is ever followed by its last name."""

from __future__ import annotations

import errno
import os
import shutil
import stat as modes
from pathlib import Path

from mirror.drivers import files
from mirror.drivers.base import PathNotFoundError
from mirror.drivers.files import naming

# What keeps a folder: something in it; or it is a link, a file, or another file system's root.
_IN_USE = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY}


def delete(root: Path, target: Path, path: str) -> None:
    """Delete a file, a link or a folder's tree: rule 3 of the driver. No link is followed."""
    with naming(path):
        if not modes.S_ISDIR(os.lstat(target).st_mode):
            target.unlink()
            files.sync_folder(target.parent)
            return
        files.sweep(root)
        aside = _move_aside(root, target)
        files.sync_folder(target.parent)
        shutil.rmtree(aside)


def prune(target: Path, keep: Path, path: str) -> None:
    """Remove the folder `target` and those above it, below `keep`, as far as they are empty.

    Nothing is synced: an empty folder that is there again after a power cut is removed the next time.
    """
    with naming(path):
        while target != keep:
            try:
                target.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in _IN_USE:
                    return
                raise
            target = target.parent


def move_out(target: Path, place: Path, path: str) -> None:
    """Make the file `target` the one at `place`, outside: the new name is durable before the old one goes."""
    with naming(path):
        if not modes.S_ISREG(os.lstat(target).st_mode):
            raise PathNotFoundError(path, "not a file")
        files.make_folder(place.parent)
        try:
            target.replace(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_out(target, place)
        files.sync_folder(place.parent)
        target.unlink(missing_ok=True)
        files.sync_folder(target.parent)


def _copy_out(target: Path, place: Path) -> None:
    temporary = place.parent / files.temporary_name()
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        files.copy(descriptor, temporary)
        temporary.replace(place)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _move_aside(root: Path, target: Path) -> Path:
    """Move a folder to a temporary name: in the root, where left-overs are found; else beside itself."""
    aside = root / files.temporary_name()
    try:
        return target.rename(aside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return target.rename(target.parent / aside.name)
