"""A small version of the simulation that docs/performance.md tells of."""

from __future__ import annotations

from tests.bench.catalogue import Catalogue
from tests.bench.fifo import Fifo
from tests.bench.keeping import simulate
from tests.support.memory import memory_folder

SEED = 4


async def test_the_size_stays_within_the_limit_and_pulls_hit() -> None:
    catalogue = Catalogue(80, SEED)
    limit = catalogue.size // 4  # more than one image needs, or it could not be kept whole
    with memory_folder() as folder:
        outcome = await simulate(folder, catalogue.pulls(60, 4 * 3600.0), limit)
    assert outcome.mirror.asked == outcome.fifo.asked
    assert 0.2 < outcome.mirror.hits / outcome.mirror.asked < 1
    assert outcome.mirror.fetched_bytes > limit, "nothing had to go: this shows nothing"
    assert max(point.kept for point in outcome.points) > limit // 2
    assert outcome.not_kept == 0


def test_a_catalogue_follows_from_its_seed() -> None:
    one, other = Catalogue(40, SEED), Catalogue(40, SEED)
    assert list(one.pulls(50, 60.0)) == list(other.pulls(50, 60.0))
    assert one.images != Catalogue(40, SEED + 1).images
    blobs = [layer.digest for image in one.images for layer in image.layers]
    assert len(set(blobs)) < len(blobs), "no layer is shared"


def test_a_fifo_lets_the_first_go_first_whatever_was_used() -> None:
    first, second, third = (layer for layer in Catalogue(3, SEED).images[0].layers[:3])
    fifo = Fifo(20)
    assert [fifo.take(each.digest, 8) for each in (first, second, first, third, second, first)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert fifo.bytes == 16
