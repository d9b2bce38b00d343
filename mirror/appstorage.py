"""The part of the composition root that makes the storage driver, and finds the mirror's own folder.

Like `app` it reads `Config`, and decides nothing.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog

from mirror import appclouds
from mirror.apperror import StartError
from mirror.config import Config
from mirror.configremote import disk_folder, local_root
from mirror.drivers import probe
from mirror.drivers.base import DeniedError, DriverError, Remote, StorageDriver, UnreachableError
from mirror.drivers.breaker import NOT_ASKED
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.hot import Hot
from mirror.drivers.inmemory import InMemoryDriver
from mirror.drivers.tiered import TieredDriver
from mirror.registry import RegistryError, Unavailable
from mirror.store import layout
from mirror.store.errors import StoreError

SPOOL = Path("mirror", "spool")  # below the root directory, or the local one
# As of the start: it is not looked at again.
READONLY = (
    "storage: it could not be written at the start (storage.readonly in the log): "
    "what is kept is served, new content is not kept"
)
THREADS = 100  # of the local disk that holds copies; registry:2's own of a file system

log = structlog.get_logger()


@contextlib.contextmanager
def storage(config: Config) -> Iterator[tuple[StorageDriver, Path, list[str]]]:
    """The driver, the local folder for unfinished fills, and what `/readyz` is to say of them: a folder that
    cannot be written, without its name. Blocks. Raises StartError.
    """
    root = local_root(config)
    if root is None:
        with tempfile.TemporaryDirectory(prefix="mirror-spool-") as folder:
            yield InMemoryDriver(), Path(folder) / SPOOL, []
        return
    is_here = config.storage.filesystem is not None
    key = "storage.filesystem.rootdirectory" if is_here else "cache.folder"
    folders = layout.FOLDERS if is_here else ()
    try:
        root.mkdir(parents=True, exist_ok=True)
        kept = any((root / folder).exists() for folder in folders)
    except OSError as error:
        raise StartError(
            f"{key}: cannot use {root}: {error.strerror}. "
            f"Make it a folder that user {os.geteuid()} can write, or name another one."
        ) from error
    remarks = []
    for refusal in probe.refusals(root, (*folders, str(SPOOL))):
        text = probe.advice(refusal, root)
        if not kept:
            raise StartError(f"{key}: {text}.")
        log.warning("storage.readonly", detail=f"{text}. What is kept is served, new content is not kept.")
        remarks = [READONLY]
    yield driver(config), root / SPOOL, remarks


def driver(config: Config) -> StorageDriver:
    """The driver of a configuration that keeps images elsewhere than in memory. Blocks. Raises StartError."""
    filesystem = config.storage.filesystem
    if filesystem is not None:
        return FilesystemDriver(filesystem.rootdirectory.absolute(), filesystem.maxthreads)
    return _tiered(config, appclouds.driver(config))


async def start(driver: StorageDriver) -> None:
    """Make it ready. A login that cannot be had now is asked for again when needed. Raises StartError."""
    try:
        await driver.start()
    except (DeniedError, UnreachableError) as error:
        log.warning("storage.not_ready", cause=error.cause)
    except DriverError as error:
        raise StartError(f"storage.{driver.name}: {error.cause}") from error


def explained(driver: StorageDriver, error: RegistryError | StoreError) -> str:
    """What an operation failed with, for the operator: clients are not told what the storage has said.

    As in `/readyz` it has the cause and the setting, and not where the storage is.
    """
    text = error.message if isinstance(error, RegistryError) else str(error)
    found = error.__cause__
    if not isinstance(found, DriverError) or not isinstance(error, Unavailable | StoreError):
        return text
    what = ""
    if isinstance(driver, Remote) and isinstance(found, DeniedError | UnreachableError):
        what = driver.advice(found).what
    if isinstance(error, Unavailable):  # a StoreError's text is the cause
        text += f": {found.cause.removeprefix(NOT_ASKED) if what else found}"
    return f"{text}: {what}" if what else text


def _tiered(config: Config, below: StorageDriver) -> StorageDriver:
    """With copies on the local disk, where there are to be any."""
    folder, maxsize = disk_folder(config), config.cache.disk.maxsize
    if folder is None or maxsize is None:
        return below
    disk = FilesystemDriver(folder, THREADS)
    return TieredDriver(
        below, Hot(disk, folder, maxsize.bytes), [f"{layout.BLOBS}/{data}" for data in layout.DATA]
    )


def described(config: Config) -> str:
    """Where images are kept, for the log."""
    storage = config.storage
    if storage.filesystem is not None:
        return str(storage.filesystem.rootdirectory.absolute())
    return appclouds.described(config) if storage.is_remote else "inmemory"
