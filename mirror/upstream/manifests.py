"""Manifests of an upstream.

HEAD is how a tag is asked, because it is cheap and Docker Hub does not count it. Some registries refuse it or
leave out what it is for (ECR Public, Harbor's own proxy): then GET, and later GET at once (`heads`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus

import structlog

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import ACCEPT, INDEXES, MANIFESTS, ManifestError, parse
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import MANIFEST_LIMIT, Corrupt, RawManifest
from mirror.upstream.calls import Calls
from mirror.upstream.causes import address
from mirror.upstream.fields import digest_in, is_page, length_in, media_type_in
from mirror.upstream.heads import REFUSALS, Heads

INLINE_LIMIT = 64 << 10  # bytes of a manifest that are read on the loop, mostly in 2 ms; 4 MiB may take 0.3 s

_HEADERS = {"Accept": ", ".join(ACCEPT)}
_KNOWN = INDEXES | MANIFESTS
_NO_REGISTRY = "is this the address of a registry? see remoteurl"

_log = structlog.get_logger()


class Manifests:
    """Those of the registry behind `calls`. Errors: as `Client.resolve`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._heads = Heads()

    async def get(self, repository: Repository, reference: Reference) -> RawManifest:
        """A manifest, checked against its digest (a tag's: the one that the upstream sent along, if any).

        Corrupt for what is no manifest, too large, or not the one asked for.
        """
        answer = await self._calls.send(
            "GET", repository, f"manifests/{reference}", headers=_HEADERS, limit=MANIFEST_LIMIT
        )
        if answer.status != HTTPStatus.OK:
            self._calls.fail(answer, ErrorCode.MANIFEST_UNKNOWN, "this manifest")
        self._calls.transport.traffic.pulled.add("manifest", count=len(answer.body))
        expected = reference if isinstance(reference, Digest) else digest_in(answer.headers)
        work = partial(_checked, answer.body, answer.headers.get("Content-Type"), expected)
        try:
            return work() if len(answer.body) <= INLINE_LIMIT else await asyncio.to_thread(work)
        except ManifestError as error:
            text = f"sent a manifest that {error}"
            if is_page(answer.headers):
                text = f"sent {media_type_in(answer.headers)} instead of a manifest, which cannot be used"
            hint = {"hint": _NO_REGISTRY} if is_page(answer.headers) else {}
            url = self._calls.url(repository, f"manifests/{reference}")
            about = {"method": "GET", "host": address(url), "path": url.raw_path, "cause": text}
            _log.warning("upstream.failed", attempts=1, **about, **hint)
            raise Corrupt(f"{self._calls.name} {text}") from error

    async def look_up(
        self, repository: Repository, reference: Reference
    ) -> tuple[Descriptor, RawManifest | None]:
        """What it is, by HEAD; where that does not do by GET, with the manifest."""
        refused: int | None = None  # the status of a HEAD that was of no use
        if self._heads.worth(repository):
            answer = await self._calls.send("HEAD", repository, f"manifests/{reference}", headers=_HEADERS)
            if answer.status != HTTPStatus.OK and answer.status not in REFUSALS:
                self._calls.fail(answer, ErrorCode.MANIFEST_UNKNOWN, "this manifest")
            size, digest = length_in(answer.headers), digest_in(answer.headers)
            media_type = media_type_in(answer.headers)
            if answer.status != HTTPStatus.OK or not size or (digest is None and isinstance(reference, Tag)):
                refused = answer.status
            elif media_type in _KNOWN:
                self._heads.worked()
                return self._described(reference, digest, size, media_type), None
        manifest = await self.get(repository, reference)
        if refused is not None:
            self._heads.contradicted(repository, refused)
        return manifest.descriptor, manifest

    def _described(
        self, reference: Reference, digest: Digest | None, size: int, media_type: str
    ) -> Descriptor:
        """What HEAD said, if it can be: raises Corrupt."""
        name = self._calls.name
        if size > MANIFEST_LIMIT:
            raise Corrupt(f"{name} has a manifest of {size} bytes here; {MANIFEST_LIMIT} is the limit")
        if digest is None:
            assert isinstance(reference, Digest)
            digest = reference
        elif (
            isinstance(reference, Digest) and digest.algorithm == reference.algorithm and digest != reference
        ):
            raise Corrupt(f"{name} says {digest} when asked for {reference}")
        return Descriptor(reference if isinstance(reference, Digest) else digest, size, media_type)


def _checked(body: bytes, content_type: str | None, expected: Digest | None) -> RawManifest:
    """Hash and read a manifest. Raises ManifestError, to be read after "a manifest that"."""
    if expected is not None and not expected.matches(body):
        raise ManifestError(f"does not have the digest {expected}")
    try:
        media_type = parse(body, content_type).media_type
    except ManifestError as error:
        raise ManifestError(f"cannot be used: {error}") from error
    return RawManifest(Descriptor(expected or Digest.of(body), len(body), media_type), body)
