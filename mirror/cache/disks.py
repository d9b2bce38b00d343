"""How much room there is where blobs lie."""

from __future__ import annotations

import shutil
from pathlib import Path

from mirror.cache.eviction import Disk
from mirror.cache.spool import Spool


def measured(blobs: Path, spool: Spool) -> Disk:
    """The file system on which blobs lie, or will. Blocks. Raises OSError.

    Any folder above `blobs` may be a symbolic link to another disk than its parent's, and may be yet to come.
    What is in a spool on another disk is to be copied to this one: of what is free here it has its part.
    """
    here = _there_is(blobs)
    usage = shutil.disk_usage(here)
    apart = here.stat().st_dev != _there_is(spool.folder).stat().st_dev
    coming = sum(spool.sizes().values()) if apart else 0
    return Disk(usage.total, usage.free - coming)


def _there_is(folder: Path) -> Path:
    """It, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())
