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
from pydantic import SecretStr

from mirror import __version__
from mirror.apperror import StartError
from mirror.config import Config
from mirror.configremote import disk_folder, local_root
from mirror.drivers import probe
from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.hot import Hot
from mirror.drivers.inmemory import InMemoryDriver
from mirror.drivers.tiered import TieredDriver
from mirror.store import layout

SPOOL = Path("mirror", "spool")  # below the root directory, or the local one
THREADS = 100  # of the local disk that holds copies; registry:2's own of a file system

log = structlog.get_logger()


@contextlib.contextmanager
def storage(config: Config) -> Iterator[tuple[StorageDriver, Path]]:
    """The driver, and the local folder for unfinished fills. Blocks. Raises StartError."""
    root = local_root(config)
    if root is None:
        with tempfile.TemporaryDirectory(prefix="mirror-spool-") as folder:
            yield InMemoryDriver(), Path(folder) / SPOOL
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
    for refusal in probe.refusals(root, (*folders, str(SPOOL))):
        text = probe.advice(refusal, root)
        if not kept:
            raise StartError(f"{key}: {text}.")
        log.warning("storage.readonly", detail=f"{text}. What is kept is served, new content is not kept.")
    yield driver(config), root / SPOOL


def driver(config: Config) -> StorageDriver:
    """The driver of a configuration that keeps images elsewhere than in memory. Blocks."""
    filesystem = config.storage.filesystem
    if filesystem is not None:
        return FilesystemDriver(filesystem.rootdirectory.absolute(), filesystem.maxthreads)
    return _tiered(config, _s3(config))


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
    if storage.s3 is not None:
        return f"s3://{storage.s3.bucket}{storage.s3.rootdirectory}"
    return "inmemory"


def _s3(config: Config) -> StorageDriver:
    """Imported here: its library takes longer to import than all the rest."""
    from mirror.drivers.s3 import S3Driver
    from mirror.drivers.s3settings import S3Settings

    s3, redirect = config.storage.s3, config.storage.redirect
    assert s3 is not None
    settings = S3Settings(
        bucket=s3.bucket,
        region=s3.region,
        endpoint=s3.url(s3.regionendpoint),
        redirect_endpoint=s3.url(s3.redirectendpoint),
        path_style=s3.path_style,
        access_key=_reveal(s3.accesskey),
        secret_key=_reveal(s3.secretkey),
        session_token=_reveal(s3.sessiontoken),
        root=s3.rootdirectory.strip("/"),
        secure=s3.secure,
        verify=not s3.skipverify,
        encrypt=s3.encrypt,
        kms_key=s3.keyid,
        storage_class="" if s3.storageclass in ("NONE", "STANDARD") else s3.storageclass,
        acl="" if s3.objectacl == "private" else s3.objectacl,
        part_size=s3.chunksize,
        accelerate=s3.accelerate,
        dual_stack=s3.usedualstack,
        fips=s3.usefipsendpoint,
        user_agent=s3.useragent or f"mirror/{__version__}",
        redirect=not redirect.disable,
        presigned=redirect.lifetime,
    )
    return S3Driver(settings, spare=layout.UPLOADS)


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
