"""How files and folders leave a disk. Everything here blocks. No link is ever followed by its last name."""

from __future__ import annotations

import errno
import os
import shutil
import stat as modes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mirror.drivers import files
from mirror.drivers.base import PathNotFoundError
from mirror.drivers.files import naming

# What keeps a folder: something in it; or it is a link, a file, or another file system's root.
_IN_USE = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY}


def delete(root: Path, target: Path, path: str) -> None:
    """Delete a file, a link or a folder's tree: rule 3 of the driver. No link is followed."""
    with naming(path):
        _delete(root, target, lambda: files.sync_folder(target.parent))


def remove(root: Path, doomed: Sequence[tuple[Path, str]], keep: Path, *, durable: bool) -> list[bool]:
    """Delete each, and the folders above it, below `keep`, that are empty then; whether each was there.

    With `durable` a folder is synced once for all that went from it: a folder that went with them is gone for
    good when the one that it was in is synced, and whatever was in it with it. Also what was gone already is
    synced: it may have gone just now, by a call of which nobody has learned that it was done.
    """
    found, changed = [], dict[Path, None]()  # a set that keeps the order
    for target, path in doomed:
        with naming(path):
            try:
                _delete(root, target, _nothing)
            except FileNotFoundError:
                found.append(False)
            else:
                found.append(True)
            changed[_prune(target.parent, keep)] = None
    if durable:
        with naming(""):
            _sync(changed)
    return found


def _delete(root: Path, target: Path, gone: Callable[[], None]) -> None:
    """`gone` is called once it cannot be seen any more. Raises OSError."""
    if not modes.S_ISDIR(os.lstat(target).st_mode):
        target.unlink()
        gone()
        return
    files.sweep(root)
    aside = _move_aside(root, target)
    gone()
    shutil.rmtree(aside)


def _nothing() -> None:
    """What `remove` does after each: at the end it syncs for all of them."""


def _sync(folders: Iterable[Path]) -> None:
    """Sync each once; instead of one that was pruned meanwhile, the one above it. Raises OSError."""
    synced = set[Path]()
    for each in folders:
        folder = each
        while folder not in synced:
            try:
                files.sync_folder(folder)
            except FileNotFoundError:
                folder = folder.parent
            else:
                synced.add(folder)


def prune(target: Path, keep: Path, path: str) -> None:
    """Remove the folder `target` and those above it, below `keep`, as far as they are empty.

    Nothing is synced: an empty folder that is there again after a power cut is removed the next time.
    """
    with naming(path):
        _prune(target, keep)


def _prune(target: Path, keep: Path) -> Path:
    """As `prune`; the lowest folder that is left. Raises OSError."""
    while target != keep:
        try:
            target.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _IN_USE:
                return target
            raise
        target = target.parent
    return target


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
