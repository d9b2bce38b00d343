"""What a simulated upstream has, and who pulls what when. All of it follows from a seed.

Images share layers as real ones do: all tags of a repository have its base, tags next to each other some
layers more. Sizes of layers are log-normal; which image is pulled follows Zipf's law.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.names import Repository, Tag

SCALE = 1000  # a blob on the disk has so many times fewer bytes than the one it stands for
MEDIAN = 20_000  # bytes of a layer on the disk: 20 MB
SPREAD = 1.5  # sigma of the sizes' logarithm: one layer in a hundred has more than 30 times the median
LARGEST = 1_000_000  # bytes of a layer on the disk
CONFIG = 8  # bytes
BASES = 20
TAGS_EACH = 4

_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob; its bytes follow from its number."""

    number: int
    digest: Digest
    size: int

    @property
    def data(self) -> bytes:
        return _data(self.number, self.size)


@dataclass(frozen=True, slots=True)
class Image:
    """What a client pulls."""

    repository: Repository
    tag: Tag
    body: bytes
    digest: Digest
    layers: tuple[Layer, ...]  # the config among them


@dataclass(frozen=True, slots=True)
class Pull:
    """`at`: seconds since the beginning."""

    at: float
    image: Image


class Catalogue:
    """See the module's text."""

    def __init__(self, images: int, seed: int) -> None:
        self._random = Random(seed)
        self._layers: list[Layer] = []
        bases = [self._several(2, 3) for _ in range(BASES)]
        self.images: list[Image] = []
        while len(self.images) < images:
            repository = Repository(f"team/app{len(self.images) // TAGS_EACH}")
            base, common = self._random.choice(bases), self._several(1, 2)
            for number in range(min(TAGS_EACH, images - len(self.images))):
                own = (self._layer(CONFIG), *self._several(1, 4))
                self.images.append(_image(repository, Tag(f"v{number}"), (*own, *base, *common)))
        self._random.shuffle(self.images)  # how much an image is wanted says nothing about what it shares

    @property
    def size(self) -> int:
        """Bytes of all blobs, each once."""
        blobs = {layer.digest: layer.size for image in self.images for layer in image.layers}
        return sum(blobs.values()) + sum(len(image.body) for image in self.images)

    def pulls(self, count: int, seconds: float, alpha: float = 1.0) -> Iterator[Pull]:
        """So many pulls at random times; the n-th image is wanted n ** -alpha times as often as the first."""
        weights = list(accumulate(1 / rank**alpha for rank in range(1, len(self.images) + 1)))
        for at in sorted(self._random.uniform(0, seconds) for _ in range(count)):
            yield Pull(at, self.images[bisect(weights, self._random.uniform(0, weights[-1]))])

    def _several(self, least: int, most: int) -> tuple[Layer, ...]:
        return tuple(self._layer() for _ in range(self._random.randint(least, most)))

    def _layer(self, size: int | None = None) -> Layer:
        number = len(self._layers)
        if size is None:
            drawn = MEDIAN * self._random.lognormvariate(0, SPREAD)
            size = int(min(max(drawn, CONFIG), LARGEST))
        layer = Layer(number, Digest.of(_data(number, size)), size)
        self._layers.append(layer)
        return layer


def _data(number: int, size: int) -> bytes:
    """Its number, and nothing."""
    return f"{number:08d}".encode().ljust(size, b"\0")


def _image(repository: Repository, tag: Tag, layers: tuple[Layer, ...]) -> Image:
    config, *others = (
        {"mediaType": _OCTETS, "digest": str(each.digest), "size": each.size} for each in layers
    )
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": others}
    body = json.dumps(document, separators=(",", ":")).encode()
    return Image(repository, tag, body, Digest.of(body), layers)
