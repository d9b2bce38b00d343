"""The `storage` section: one driver, and what the registry puts beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, PlainValidator

from mirror.configclouds import Azure, Gcs, Oss
from mirror.configs3 import S3
from mirror.configsections import Go, Section
from mirror.configswift import Swift
from mirror.configvalues import Count, Duration, Flag, Integer, PathValue, between, one_of, within

DESCRIPTORS_MAX: Final = 1_000_000  # of some 330 bytes each; what the registry's "0: no limit" means here
THREADS_MIN: Final = 25  # the registry's filesystem driver takes no less either
THREADS_MAX: Final = 1000
LIFETIME_MIN: Final = 60.0  # seconds; a client is to have half of it to begin
LIFETIME_MAX: Final = 7 * 86400.0  # seconds; S3 signs for no longer


class Filesystem(Section):
    rootdirectory: PathValue = Path("/var/lib/registry")
    maxthreads: Annotated[
        Integer, AfterValidator(between(0, THREADS_MAX)), AfterValidator(lambda n: max(n, THREADS_MIN))
    ] = 100


class InMemory(Section):
    pass


class DescriptorCache(Section):
    """How many blob descriptors are kept in memory; the mirror keeps them there whatever the kind is."""

    blobdescriptor: Annotated[str, PlainValidator(one_of("", "inmemory", "redis"))] = ""
    layerinfo: Annotated[str, PlainValidator(one_of("", "inmemory", "redis"))] = ""  # its name until 2015
    blobdescriptorsize: Annotated[
        Integer, AfterValidator(between(0, DESCRIPTORS_MAX)), AfterValidator(lambda n: n or DESCRIPTORS_MAX)
    ] = 10000


class Delete(Section):
    enabled: Flag = False


class UploadPurging(Section):
    enabled: Flag = True
    age: Duration = 168 * 3600.0
    interval: Duration = 24 * 3600.0
    dryrun: Flag = False


class ReadOnly(Section):
    enabled: Flag = False


class Maintenance(Section):
    uploadpurging: UploadPurging = UploadPurging()
    readonly: ReadOnly = ReadOnly()


class Redirect(Section):
    """`lifetime`: seconds that a URL works which a client is given; `disable`: clients are given none."""

    disable: Flag = False
    lifetime: Annotated[Duration, AfterValidator(within(LIFETIME_MIN, LIFETIME_MAX))] = 1200.0


class TagOptions(Section):
    concurrencylimit: Count = 0


class Storage(Section):
    """Exactly one driver is given."""

    go_map: ClassVar[bool] = True

    filesystem: Filesystem | None = None
    inmemory: InMemory | None = None
    s3: Annotated[S3 | None, Go("S3AWS")] = None  # a second name of it: the file's is made the first one
    azure: Azure | None = None
    gcs: Gcs | None = None
    oss: Oss | None = None
    swift: Swift | None = None
    cache: DescriptorCache = DescriptorCache()
    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()
    redirect: Redirect = Redirect()
    tag: TagOptions = TagOptions()

    @property
    def is_remote(self) -> bool:
        """Whether images are kept in object storage."""
        return any(driver is not None for driver in (self.s3, self.azure, self.gcs, self.oss, self.swift))
