"""What the operator is told of a failed operation."""

from __future__ import annotations

import pytest

from mirror.appstorage import explained
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    PathNotFoundError,
    StorageDriver,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.breaker import NOT_ASKED
from mirror.drivers.inmemory import InMemoryDriver
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.timed import TimedDriver
from mirror.oci.digest import Digest
from mirror.registry import RegistryError
from mirror.store.errors import StoreError, reading, unknown_blob, writing

HERE = TimedDriver(InMemoryDriver())
BUCKET = TimedDriver(
    S3Driver(
        S3Settings(
            "images", endpoint="http://s3.test", path_style=True, access_key="key", secret_key="secret"
        )
    )
)
ASKED = "the storage of this registry cannot be asked now: "
READ = "the storage of this registry cannot be read now: "
AWAY = "see whether it runs, whether this machine reaches it, and storage.s3.regionendpoint"
LOGIN = "there is no login, or none can be had now: see storage.s3.accesskey"


def _named(value: object) -> str:
    """A parameter in a test's name, which is the same in each process."""
    return value.name if isinstance(value, TimedDriver) else str(value)


@pytest.mark.parametrize(
    ("driver", "cause", "told"),
    [
        (HERE, DriverError("a/b", "Input/output error"), f"{READ}a/b: Input/output error"),
        (BUCKET, DriverError("a/b", "odd"), f"{READ}a/b: odd"),
        (BUCKET, DeniedError("a/b", "no"), f"{ASKED}no: {LOGIN}"),
        (BUCKET, UnreachableError("a/b", "it broke off"), f"{ASKED}it broke off: {AWAY}"),
        (BUCKET, UnreachableError("a/b", f"{NOT_ASKED}it broke off"), f"{ASKED}it broke off: {AWAY}"),
        # No setting would help.
        (BUCKET, ThrottledError("a/b", "too many"), f"{ASKED}a/b: too many"),
    ],
    ids=_named,
)
def test_what_could_not_be_read_is_told_with_its_cause_and_the_setting(
    driver: StorageDriver, cause: DriverError, told: str
) -> None:
    with pytest.raises(RegistryError) as failed, reading():
        raise cause
    assert explained(driver, failed.value) == told


@pytest.mark.parametrize(
    ("driver", "cause", "told"),
    [
        (HERE, DriverError("a/b", "Read-only file system"), "a/b: Read-only file system"),
        (BUCKET, DeniedError("a/b", "no"), f"a/b: no: {LOGIN}"),
    ],
    ids=_named,
)
def test_what_could_not_be_written_names_its_cause_once(
    driver: StorageDriver, cause: DriverError, told: str
) -> None:
    with pytest.raises(StoreError) as failed, writing():
        raise cause
    assert explained(driver, failed.value) == told


def test_what_is_not_there_is_no_trouble_of_the_storage() -> None:
    error = unknown_blob(Digest.of(b""))
    error.__cause__ = PathNotFoundError("a/b", "no such object")
    assert explained(BUCKET, error) == error.message
