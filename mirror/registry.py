"""The verbs and the failures that every registry shares.

`Registry` is answered three times: by `store.content.ContentStore` (what we have), by
`upstream.client.Client` (what somebody else has), and by `cache.pullthrough.PullThrough` (the one made of
the other two). The server calls nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, runtime_checkable

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag

MANIFEST_LIMIT = 4 << 20  # bytes; distribution and containerd refuse larger manifests as well


@dataclass(frozen=True, slots=True)
class RawManifest:
    """A manifest's or index's bytes, unchanged; `descriptor` fits them (size and digest were checked)."""

    descriptor: Descriptor
    body: bytes


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag points to now; with the manifest where the registry only gave it along."""

    descriptor: Descriptor
    manifest: RawManifest | None = None


@dataclass(frozen=True, slots=True)
class FileSpan:
    """`count` bytes from `offset` of an open regular file: a body's part that can leave by sendfile.

    The file belongs to the Blob that gave it, and stays open until that Blob is closed. Readers must not
    use the file's own position (pread, sendfile).
    """

    file: BinaryIO
    offset: int
    count: int


Part = bytes | FileSpan


class Inlet(Protocol):
    """The next bytes of a body, still where they arrived: a thread may take of them what it wants."""

    def take(self, buffer: memoryview) -> int:
        """Have the next ones put into the buffer; how many: 0 when no more are there now, or ever.

        Blocks no longer than copying does.
        """


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where a client is to fetch a blob's bytes itself, by a URL that is for whoever has it.

    `until`, in seconds since the epoch: nobody is to be given the URL after that.
    """

    url: str
    until: float


class Blob(Protocol):
    """One blob, opened for reading. Whoever opened it closes it, also after a failure."""

    @property
    def descriptor(self) -> Descriptor:
        """`size` is that of the whole blob, and never negative."""

    @property
    def start(self) -> int:
        """The first byte that `read` can give: 0, unless a remote registry was asked for the rest only."""

    def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        """The bytes [start, stop) in order, in parts of whatever size; `start` >= `self.start`.

        The part that holds the blob's last byte is given only after the digest of all the bytes was found
        right, where this registry checks it. Raises RegistryError in the middle when the rest cannot be had:
        the caller must break off the answer, never end it cleanly.
        """

    async def close(self) -> None:
        """Release what reading holds (file, connection). Safe to call twice."""


@runtime_checkable
class Drawn(Protocol):
    """A Blob whose bytes can also be had without a copy in between."""

    def draw(self, stop: int, worth: int) -> AsyncGenerator[bytes | Inlet, None]:
        """As `read`, from where it is to `stop`, except that a part may be an Inlet: what was taken of that
        has come, and the rest is given later. It ends with the step to the next part.

        `worth`: bytes that must be ahead for that; more are asked for only where it costs more.
        """


def draw(blob: Blob, stop: int, worth: int) -> AsyncGenerator[Part | Inlet, None]:
    """All of a blob that was opened just now, in the best way that it has."""
    return blob.draw(stop, worth) if isinstance(blob, Drawn) else blob.read(blob.start, stop)


@runtime_checkable
class Placed(Protocol):
    """A Blob that may be elsewhere as well; its `read` works all the same."""

    @property
    def elsewhere(self) -> Elsewhere | None:
        """Where clients are to be sent for the bytes; None: they are to be given them."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of names; `more` says whether names follow after the last of these."""

    names: tuple[str, ...]
    more: bool


class Registry(Protocol):
    """What can be asked of a registry. All methods raise RegistryError and nothing else on purpose."""

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        """What the tag points to. Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN."""

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest or index, whole. Errors: MANIFEST_UNKNOWN, NAME_UNKNOWN."""

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        """The descriptor of what `manifest` would give. Errors: as `manifest`."""

    async def blob(
        self, repository: Repository, digest: Digest, *, start: int = 0, size: int | None = None
    ) -> Blob:
        """Open a blob. Errors: BLOB_UNKNOWN, NAME_UNKNOWN.

        `start` is the first byte that will be read: a registry over a network asks for no more. `size` is
        the blob's size where the caller knows it, for a registry whose answer might not say it.
        """

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        """A blob's descriptor; moves no content. Errors: BLOB_UNKNOWN, NAME_UNKNOWN."""

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        """Tags after `last` in the registry's order, at most `n` (None: all). Errors: NAME_UNKNOWN."""

    async def repositories(self, n: int | None, last: str) -> Page:
        """Repository names after `last` in path order, at most `n` (None: all)."""

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        """The descriptors (OCI image index entries) of the manifests whose subject is `digest`.

        Errors: UNSUPPORTED where a registry has no referrers API, NAME_UNKNOWN.
        """


@dataclass(frozen=True, slots=True)
class Condition:
    """How an upstream is doing, as far as its last answers tell.

    `trouble` and `blobs` say why a manifest, or a blob's bytes, would not be asked for now (None: they would
    be). `stretch` >= 1: by how much longer its answers are to be believed, because a quota runs low.
    `parts`: over how many connections, beside one for each blob, parts of its blobs may be asked for, by all
    together; 0 where it is not known to give parts, or is in trouble.
    """

    namespace: str  # the name by which clients know the upstream: `quay.io`
    trouble: RegistryError | None = None
    blobs: RegistryError | None = None
    stretch: float = 1.0
    parts: int = 0


class Upstream(Registry, Protocol):
    """A Registry over a network, or several of them behind one face."""

    def condition(self, repository: Repository) -> Condition:
        """How the registry that has this repository is doing. Asks nobody, and costs next to nothing."""

    def expect(self, repository: Repository) -> None:
        """Blobs of this repository will be asked for in a moment: have ready what that takes.

        A hint: it waits for nothing, sends no request, raises nothing, and may do nothing at all.
        """

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Blob:
        """As `Registry.blob`; with `stop` only the bytes before it are asked for.

        A registry that does not do ranges gives all of it all the same: `Blob.start` is 0 then.
        """


class RegistryError(Exception):
    """A failure that a client may see: no host names of ours, no secrets, no library's text.

    `status` is the code's own unless given; `retry_after` is in seconds, for the Retry-After header.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        detail: Any = None,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.code = code
        self.message = message or code.message
        self.detail = detail
        self.status = status or code.status
        self.retry_after = retry_after
        super().__init__(f"{code.name}: {self.message}")


class Unavailable(RegistryError):
    """The registry cannot answer now: it refuses, hangs, breaks off, answers 5xx or nonsense. Try later."""

    def __init__(
        self, message: str, *, status: int = 503, detail: Any = None, retry_after: float | None = None
    ) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message, detail, status=status, retry_after=retry_after)


class RateLimited(RegistryError):
    """The registry limits us (429)."""

    def __init__(self, message: str, *, detail: Any = None, retry_after: float | None = None) -> None:
        super().__init__(ErrorCode.TOOMANYREQUESTS, message, detail, retry_after=retry_after)


class Corrupt(RegistryError):
    """What the registry sent is not what it was asked for: wrong digest or length (502, never kept)."""

    def __init__(self, message: str, *, detail: Any = None) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message, detail, status=502)
