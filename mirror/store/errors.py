"""The store's failures: those of its writing verbs, and the answers to those who ask for what is not here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from mirror.drivers.base import DeniedError, DriverError, NoSpaceError, ThrottledError, UnreachableError
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import RegistryError, Unavailable

log = structlog.get_logger()


class StoreError(Exception):
    """Something could not be kept; the DriverError is the cause. What was readable before still is."""


class StoreFull(StoreError):
    """There is no room."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn a driver's failure into a StoreError."""
    try:
        yield
    except DriverError as error:
        raise failed(error) from error


def failed(error: DriverError) -> StoreError:
    """A driver's failure as a StoreError."""
    return StoreFull(str(error)) if isinstance(error, NoSpaceError) else StoreError(str(error))


class StorageAway(Unavailable):
    """A remote storage cannot be asked, or does not let us: that says nothing about what was asked for."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn a driver's failure into Unavailable; the path and the cause are for the log only."""
    try:
        yield
    except (DeniedError, ThrottledError, UnreachableError) as error:
        log.error("store.read.failed", path=error.path, cause=error.cause)
        raise StorageAway("the storage of this registry cannot be asked now") from error
    except DriverError as error:
        log.error("store.read.failed", path=error.path, cause=error.cause)
        raise Unavailable("the storage of this registry cannot be read now") from error


def unknown_manifest(repository: Repository, reference: Reference) -> RegistryError:
    """MANIFEST_UNKNOWN with the detail texts of distribution 3 (errors.go)."""
    if isinstance(reference, Tag):
        detail = f"unknown tag={reference}"
    else:
        detail = f"unknown manifest name={repository} revision={reference}"
    return RegistryError(ErrorCode.MANIFEST_UNKNOWN, detail=detail)


def unknown_blob(digest: Digest) -> RegistryError:
    """BLOB_UNKNOWN with distribution's detail."""
    return RegistryError(ErrorCode.BLOB_UNKNOWN, detail=str(digest))


def unknown_name(repository: Repository) -> RegistryError:
    """NAME_UNKNOWN with distribution's detail."""
    return RegistryError(ErrorCode.NAME_UNKNOWN, detail={"name": str(repository)})
