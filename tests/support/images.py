"""Small, valid, synthetic container images of every kind that a mirror meets.

`generate()` makes them in memory; its Catalog knows each image's digests, so that a test can say what a
client should have got. Nothing is ever run from these images. The digests depend on the seed and on zlib:
tests take them from the catalog.

    library/small:1, :latest     docker schema 2, 3 gzip layers: text, random, whiteout
    library/oci:1                the same as OCI, 2 layers
    library/oci:sbom, :sha256-…  an OCI artifact with a subject, and the referrers tag; no engine pulls them
    library/multi:1, :latest     OCI index, amd64 and arm64/v8 with a common layer
    library/fat:1, :latest       docker manifest list, amd64, arm64/v8, arm/v7
    library/attested:1           OCI index with a buildx attestation ("unknown/unknown")
    library/zstd:1               a zstd layer; not for dockerd before 23
    library/empty:1              the well-known empty layer, and one layer used twice
    library/nolayers:1           no layers
    library/big:1                6 layers of 2 MiB, to cut short, to resume and to watch side by side
    library/tags:t000 to t029    30 tags of one manifest
    team/project/sub_group/app-name:V1.2.3_rc-4    a long name, an odd tag
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.support import layers
from tests.support.layers import Layer, sha256

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
AMD64 = "linux/amd64"
CREATED = "2024-01-01T00:00:00Z"
BIG_LAYER = 2 << 20  # bytes
BIG_LAYERS = 6

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """One platform's image: what a client ends up with after a pull."""

    manifest: str  # digest of this platform's manifest
    config: str  # digest of its config: docker's and podman's image id
    layers: list[str]  # digests of the packed layers, bottom first
    diff_ids: list[str]  # digests of the same layers, unpacked


@dataclass(frozen=True, slots=True)
class Image:
    """One tag of one repository, and all that hangs below it."""

    name: str  # repository, such as "library/small"
    tag: str
    digest: str  # of what the tag points to: a manifest or an index
    media_type: str
    platforms: dict[str, PlatformImage]  # by "os/arch[/variant]"; empty: an artifact, which no engine pulls
    not_for: tuple[str, ...] = ()  # names of clients that cannot take it
    extra_tags: tuple[str, ...] = ()  # more tags of the same manifest

    @property
    def ref(self) -> str:
        """`name:tag`."""
        return f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All the images, and every blob and manifest of them by digest."""

    seed: int
    images: list[Image] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __getitem__(self, ref: str) -> Image:
        return next(image for image in self.images if image.ref == ref)

    def for_client(self, client: str) -> list[Image]:
        """The images that this client ("podman", "dockerd", …) can pull."""
        return [image for image in self.images if image.platforms and client not in image.not_for]

    def objects(self, image: Image) -> tuple[list[str], list[str]]:
        """The digests of all manifests (the top one first) and of all blobs below an image, each once."""
        manifests, blobs = [image.digest], []
        for digest in manifests:  # grows while it is read
            document: Json = json.loads(self.blobs[digest])
            manifests += [child["digest"] for child in document.get("manifests", [])]
            blobs += [
                part["digest"] for part in [document.get("config"), *document.get("layers", [])] if part
            ]
        return list(dict.fromkeys(manifests)), list(dict.fromkeys(blobs))

    def add(self, data: bytes, media_type: str) -> Json:
        """Keep these bytes; their descriptor."""
        digest = sha256(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def document(self, document: Json, media_type: str) -> Json:
        """The same for JSON."""
        return self.add(json.dumps(document, separators=(",", ":")).encode(), media_type)

    def tag(
        self, name: str, tag: str, descriptor: Json, platforms: dict[str, PlatformImage], **facts: Any
    ) -> None:
        """Name a manifest."""
        self.images.append(
            Image(name, tag, descriptor["digest"], descriptor["mediaType"], platforms, **facts)
        )

    def rng(self, name: str) -> random.Random:
        """Its own sequence for each image, so that a new image changes no other."""
        return random.Random(f"{self.seed}/{name}")

    def image(
        self, platform: str, content: list[Layer], docker: bool = False, layer_type: str = OCI_GZIP
    ) -> tuple[Json, PlatformImage]:
        """One platform's config and manifest: its descriptor, and what it is made of."""
        diff_ids = [sha256(layer.tar) for layer in content]
        config = {
            "created": CREATED,
            **_platform(platform),
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"], "Labels": {"synthetic": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": CREATED, "created_by": "synthetic"} for _ in content],
        }
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        layer_type = DOCKER_GZIP if docker else layer_type
        manifest: Json = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": self.document(config, DOCKER_CONFIG if docker else OCI_CONFIG),
            "layers": [self.add(layer.packed, layer_type) for layer in content],
        }
        descriptor = self.document(manifest, media_type)
        parts = PlatformImage(
            manifest=descriptor["digest"],
            config=manifest["config"]["digest"],
            layers=[layer["digest"] for layer in manifest["layers"]],
            diff_ids=diff_ids,
        )
        return descriptor, parts

    def index(self, children: list[tuple[str, Json]], docker: bool = False) -> Json:
        """An index of (platform, descriptor) pairs: its descriptor."""
        media_type = DOCKER_LIST if docker else OCI_INDEX
        manifests = [dict(descriptor, platform=_platform(platform)) for platform, descriptor in children]
        return self.document(
            {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}, media_type
        )


def _platform(text: str) -> Json:
    os_name, architecture, *variant = text.split("/")
    return {"architecture": architecture, "os": os_name, **({"variant": variant[0]} if variant else {})}


def generate(seed: int = 0) -> Catalog:
    """The whole set."""
    catalog = Catalog(seed)
    _add_plain(catalog)
    _add_indexes(catalog)
    _add_special(catalog)
    return catalog


def _add_plain(catalog: Catalog) -> None:
    """Images of one platform, docker and OCI, and an artifact that belongs to one."""
    rng = catalog.rng("small")
    content = [layers.text(rng), layers.noise(rng, 100_000), layers.whiteout()]
    descriptor, parts = catalog.image(AMD64, [layers.gzip(tar) for tar in content], docker=True)
    catalog.tag("library/small", "1", descriptor, {AMD64: parts}, extra_tags=("latest",))

    rng = catalog.rng("oci")
    content = [layers.text(rng), layers.noise(rng, 50_000)]
    descriptor, parts = catalog.image(AMD64, [layers.gzip(tar) for tar in content])
    catalog.tag("library/oci", "1", descriptor, {AMD64: parts})
    _add_artifact(catalog, descriptor)

    descriptor, parts = catalog.image(AMD64, [layers.gzip(layers.text(catalog.rng("deep")))])
    catalog.tag("team/project/sub_group/app-name", "V1.2.3_rc-4", descriptor, {AMD64: parts})

    descriptor, parts = catalog.image(AMD64, [layers.gzip(layers.noise(catalog.rng("tags"), 1_000))])
    more = tuple(f"t{number:03d}" for number in range(1, 30))
    catalog.tag("library/tags", "t000", descriptor, {AMD64: parts}, extra_tags=more)


def _add_artifact(catalog: Catalog, subject: Json) -> None:
    """An artifact with a subject, and the tag that lists it where a registry has no referrers API."""
    artifact = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom.v1",
        "config": catalog.add(b"{}", OCI_EMPTY),
        "layers": [catalog.document({"spdxVersion": "SPDX-2.3"}, "application/spdx+json")],
        "subject": subject,
    }
    descriptor = catalog.document(artifact, OCI_MANIFEST)
    catalog.tag("library/oci", "sbom", descriptor, {})
    entry = dict(descriptor, artifactType=artifact["artifactType"])
    referrers = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    tag = subject["digest"].replace(":", "-")
    catalog.tag("library/oci", tag, catalog.document(referrers, OCI_INDEX), {})


def _add_indexes(catalog: Catalog) -> None:
    """Images of several platforms, which share their bottom layer; and what buildx pushes."""
    for name, docker, platforms in (
        ("library/multi", False, [AMD64, "linux/arm64/v8"]),
        ("library/fat", True, [AMD64, "linux/arm64/v8", "linux/arm/v7"]),
    ):
        rng = catalog.rng(name)
        base = layers.gzip(layers.text(rng))
        children, by_platform = [], {}
        for platform in platforms:
            top = layers.gzip(layers.noise(rng, 30_000))
            child, by_platform[platform] = catalog.image(platform, [base, top], docker=docker)
            children.append((platform, child))
        catalog.tag(name, "1", catalog.index(children, docker=docker), by_platform, extra_tags=("latest",))

    child, parts = catalog.image(AMD64, [layers.gzip(layers.noise(catalog.rng("attested"), 20_000))])
    statement = catalog.document(
        {"_type": "https://in-toto.io/Statement/v0.1"}, "application/vnd.in-toto+json"
    )
    rootfs = {"type": "layers", "diff_ids": [statement["digest"]]}
    config = {"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": catalog.document(config, OCI_CONFIG),
        "layers": [statement],
    }
    note = catalog.document(manifest, OCI_MANIFEST)
    note["annotations"] = {
        "vnd.docker.reference.digest": child["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    index = catalog.index([(AMD64, child), ("unknown/unknown", note)])
    catalog.tag("library/attested", "1", index, {AMD64: parts})


def _add_special(catalog: Catalog) -> None:
    """Odd layers: zstd, empty, twice the same, none; and big ones."""
    content = [layers.zstd(layers.noise(catalog.rng("zstd"), 200_000))]
    descriptor, parts = catalog.image(AMD64, content, layer_type=OCI_ZSTD)
    catalog.tag("library/zstd", "1", descriptor, {AMD64: parts}, not_for=("dockerd",))

    twice = layers.gzip(layers.noise(catalog.rng("empty"), 10_000))
    descriptor, parts = catalog.image(AMD64, [twice, layers.empty(), twice], docker=True)
    catalog.tag("library/empty", "1", descriptor, {AMD64: parts})

    descriptor, parts = catalog.image(AMD64, [])
    catalog.tag("library/nolayers", "1", descriptor, {AMD64: parts})

    rng = catalog.rng("big")
    content = [layers.gzip(layers.noise(rng, BIG_LAYER, f"big/{n}.bin")) for n in range(BIG_LAYERS)]
    descriptor, parts = catalog.image(AMD64, content, docker=True)
    catalog.tag("library/big", "1", descriptor, {AMD64: parts})
