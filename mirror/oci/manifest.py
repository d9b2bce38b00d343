"""Manifests and indexes (OCI image-spec manifest.md, image-index.md; Docker image manifest v2, schema 2).

A manifest is passed on byte for byte; what is read here is only what it names. So the reader is lenient
with everything that names nothing (unknown fields, types of layers, annotations) and strict with what
does: a digest that we could not check, or a document that is both an index and a manifest, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest, DigestError

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES = frozenset({DOCKER_LIST, OCI_INDEX})
MANIFESTS = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
SCHEMA1 = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)

# What we ask an upstream for, whatever the client accepts: distribution 2.8 gives a different digest for
# the same tag to each list of types. Without schema 1: an upstream would convert to it.
ACCEPT: tuple[str, ...] = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

MAX_SIZE = 2**63 - 1  # bytes; a descriptor's size is an int64 (image-spec descriptor.md)
# Descriptors in a list: Docker stops at 127 layers, the largest indexes of artifacts have some thousands.
MAX_DESCRIPTORS = 4096
# Commas and opening brackets in a document: 32 for each descriptor, where a platform and two annotations make
# ten. json.loads keeps all other threads waiting: for 0.1 s with so many in 4 MiB, for 0.7 s with any number.
MAX_PARTS = 32 * MAX_DESCRIPTORS
MAX_DIGITS = 1000  # of an integer anywhere in a document
MAX_MEDIA_TYPE = 255  # characters: two names of at most 127 (RFC 6838 section 4.2) and the slash

UNKNOWN_MEDIA_TYPE = "application/octet-stream"

# Layers that the publisher may leave out of the registry (image-spec layer.md, "Non-Distributable Layers";
# Docker's schema 2). Prefixes: each comes plain, +gzip and +zstd.
FOREIGN_TYPES = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)

# Of a descriptor in an index, by BuildKit: what the manifest says about another one ("attestation-manifest").
# https://docs.docker.com/build/metadata/attestations/attestation-storage/
ATTACHED = "vnd.docker.reference.type"
NO_PLATFORM = {"os": "unknown", "architecture": "unknown"}

_NAMING = frozenset(
    {"config", "layers", "digest", "mediatype", "urls"}
)  # keys, folded, that say what is named
# Keys of which no two are one to Go, without "urls": what has no others, each once, all read alike.
_USUAL = frozenset(
    {
        *("schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations"),
        *("artifactType", "digest", "size", "platform", "architecture", "os", "variant"),
    }
)


class ManifestError(ValueError):
    """Not a manifest or index that can be served; `str()` says what is the matter with it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest or an index names."""

    media_type: str  # one of INDEXES or MANIFESTS
    blobs: tuple[Descriptor, ...]  # config, then layers in order, each digest once; of an index none
    children: tuple[Descriptor, ...]  # an index's manifests in order, each digest once
    subject: Descriptor | None
    artifact_type: str | None  # as the referrers API gives it: an image's falls back to its config's type
    annotations: Mapping[str, str]
    # Of `blobs`, those that may be named by one who does not have them: at a push distribution looks for none
    # that has `urls`, others for no foreign layer. All, where it may have read another document than we.
    foreign: frozenset[Digest]
    # Of `children`, those that no client runs: provenance and lists of packages, named beside the images.
    attached: frozenset[Digest] = frozenset()


def parse(body: bytes, content_type: str | None = None) -> Manifest:
    """Read a manifest; the caller has bounded the size of `body`. Raises ManifestError.

    Takes 0.2 ms for a usual image, and some 0.3 s for 4 MiB of bad will: large ones are for a thread.
    `mediaType` in the document decides about its type. Without one, which OCI allows, a known
    `content_type` does (an HTTP header's value), else whether there is a list of manifests, as in
    distribution, which keeps no types.
    """
    document, ambiguous = _load(body)
    media_type = _media_type(document, content_type)
    oci = media_type in (OCI_MANIFEST, OCI_INDEX)
    if media_type in INDEXES:
        # CVE-2021-41190: a document that reads as an index here and as an image there.
        _refuse(document, media_type, "config", "layers")
        config = None
        blobs: tuple[Descriptor, ...] = ()
        children = _descriptors(document, "manifests")
        foreign: frozenset[Digest] = frozenset()
        attached = _attached(document.get("manifests") or ())
    else:
        _refuse(document, media_type, "manifests")
        config = _descriptor(document.get("config"), "config")
        blobs = _unique((config, *_descriptors(document, "layers")))
        children, attached = (), frozenset()
        named = (document["config"], *(document.get("layers") or ()))
        foreign = frozenset(Digest.parse(one["digest"]) for one in named if ambiguous or _is_foreign(one))
    subject = document.get("subject") if oci else None  # means nothing in Docker's types
    return Manifest(
        media_type=media_type,
        blobs=blobs,
        children=_unique(children),
        subject=None if subject is None else _descriptor(subject, "subject"),
        artifact_type=_artifact_type(document, config),
        annotations=_annotations(document.get("annotations")),
        foreign=foreign,
        attached=attached,
    )


def _load(body: bytes) -> tuple[dict[str, Any], bool]:
    """The document, of schema version 2, and whether others may read other blobs in it.

    As in Go, the last of duplicate keys counts. But Go takes "Layers" and "layers" for one key, and what it
    reads for the second goes on top of what it has read for the first: two lists of layers mix.
    """
    ambiguous = False

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal ambiguous
        names = [name for key, _ in pairs if (name := key.casefold()) in _NAMING]
        ambiguous = ambiguous or len(names) != len(set(names))
        return dict(pairs)

    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_PARTS:
        raise ManifestError(f"the manifest has more than {MAX_PARTS} parts")
    try:
        # json.loads(bytes) would also take UTF-16 and UTF-32.
        text = body.decode("utf-8")
        try:
            document = _USUAL_DECODER.decode(text)
        except _UnusualError:
            document = json.loads(
                text, object_pairs_hook=checked, parse_int=_integer, parse_constant=_no_constant
            )
    except UnicodeDecodeError as error:
        raise ManifestError("the manifest is not UTF-8") from error
    except RecursionError as error:
        raise ManifestError("the manifest is nested too deeply") from error
    except ValueError as error:  # no JSON, NaN, or a monstrous integer
        raise ManifestError("the manifest is not JSON") from error
    if not isinstance(document, dict):
        raise ManifestError("the manifest is not a JSON object")
    version = document.get("schemaVersion")
    if version == 1 or document.get("mediaType") in SCHEMA1:
        raise ManifestError("manifests of schema version 1 are not supported")
    if type(version) is not int or version != 2:
        raise ManifestError("the manifest's schemaVersion is not 2")
    return document, ambiguous


def _integer(digits: str) -> int:
    """An integer; not one that only Python would read, in time that grows with the square of its digits."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("an integer of too many digits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(name)


class _UnusualError(Exception):
    """There are keys that others may read otherwise."""


def _usual(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which they are not. Raises _UnusualError."""
    made = dict(pairs)
    if len(made) == len(pairs) and made.keys() <= _USUAL:
        return made
    if any(key.casefold() in _NAMING for key, _ in pairs):
        raise _UnusualError
    return made


_USUAL_DECODER = json.JSONDecoder(object_pairs_hook=_usual, parse_int=_integer, parse_constant=_no_constant)


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    media_type = document.get("mediaType")
    if media_type is None or media_type == "":
        media_type = (content_type or "").partition(";")[0].strip().lower()
        if media_type in SCHEMA1:
            raise ManifestError("manifests of schema version 1 are not supported")
        if media_type not in INDEXES | MANIFESTS:
            media_type = OCI_MANIFEST if document.get("manifests") is None else OCI_INDEX
        return media_type
    if not isinstance(media_type, str):
        raise ManifestError("the manifest's mediaType is not a text")
    if media_type not in INDEXES | MANIFESTS:
        raise ManifestError(f"manifests of the type {media_type[:MAX_MEDIA_TYPE]!r} are not supported")
    return media_type


def _refuse(document: dict[str, Any], media_type: str, *fields: str) -> None:
    for name in fields:
        if document.get(name) is not None:
            raise ManifestError(f"a manifest of the type {media_type} must not have {name!r}")


def _descriptors(document: dict[str, Any], name: str) -> tuple[Descriptor, ...]:
    """A list of descriptors; Go's tools write an empty one as null."""
    values = document.get(name)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise ManifestError(f"{name!r} is not a list")
    if len(values) > MAX_DESCRIPTORS:
        raise ManifestError(f"{name!r} has {len(values)} descriptors; {MAX_DESCRIPTORS} is the limit")
    return tuple(_descriptor(value, name) for value in values)


def _descriptor(value: Any, name: str) -> Descriptor:
    """One descriptor; `name` is the field that has it."""
    if not isinstance(value, dict):
        raise ManifestError(f"{name!r} has no descriptor")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str):
        raise ManifestError(f"a descriptor in {name!r} has no digest")
    # type(), since True is an int to isinstance.
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise ManifestError(f"a descriptor in {name!r} has no valid size")
    media_type = value.get("mediaType") or UNKNOWN_MEDIA_TYPE
    if not isinstance(media_type, str) or len(media_type) > MAX_MEDIA_TYPE:
        raise ManifestError(f"a descriptor in {name!r} has no valid mediaType")
    if not (media_type.isascii() and media_type.isprintable()):  # it may become a header's value
        raise ManifestError(f"a descriptor in {name!r} has no valid mediaType")
    try:
        return Descriptor(Digest.parse(digest), size, media_type)
    except DigestError as error:
        raise ManifestError(f"a descriptor in {name!r} has no valid digest: {error}") from error


def _is_foreign(value: dict[str, Any]) -> bool:
    """Whether the publisher may lack it: one use of a digest that says so is enough, whatever others say."""
    if (value.get("mediaType") or "").lower().startswith(FOREIGN_TYPES):
        return True
    if value.keys() <= _USUAL:
        return False
    # Go, in which registries are written, reads "URLs" and even "url\u017f" as "urls".
    return any(urls and key.casefold() == "urls" for key, urls in value.items())


def _attached(entries: Sequence[dict[str, Any]]) -> frozenset[Digest]:
    """The digests of an index's entries that are for no client to run, whichever of them names it."""
    attached: set[str] = set()
    others: set[str] = set()
    for entry in entries:
        platform, annotations = entry.get("platform"), entry.get("annotations")
        is_attached = (isinstance(annotations, dict) and bool(annotations.get(ATTACHED))) or (
            isinstance(platform, dict) and NO_PLATFORM.items() <= platform.items()
        )
        (attached if is_attached else others).add(entry["digest"])
    return frozenset(map(Digest.parse, attached - others))


def _unique(descriptors: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """The first descriptor of each digest, in order."""
    first: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        first.setdefault(descriptor.digest, descriptor)
    return tuple(first.values())


def _artifact_type(document: dict[str, Any], config: Descriptor | None) -> str | None:
    """distribution-spec, "Listing Referrers": artifactType, for an image without one its config's type."""
    value = document.get("artifactType")
    if isinstance(value, str) and value:
        return _text(value)
    return config.media_type if config is not None else None


def _annotations(value: Any) -> dict[str, str]:
    """Annotations name no content: what is wrong in them is left out, not refused."""
    if not isinstance(value, dict):
        return {}
    return {_text(key): _text(text) for key, text in value.items() if isinstance(text, str)}


def _text(text: str) -> str:
    r"""Text that can be encoded again: JSON may say "\ud800", half a character."""
    return text.encode(errors="replace").decode()
