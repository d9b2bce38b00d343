"""Whatever is noted, dropped and surveyed in whatever order: the rows say what a simple model says."""

from __future__ import annotations

import math
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mirror.ledger import asks, survey
from mirror.ledger.facts import SeenBlob, SeenLink, SeenParts, SeenTag, Total
from mirror.ledger.inventoryschema import raw
from mirror.ledger.notes import (
    BlobGone,
    BlobKept,
    ImageGone,
    ImageKept,
    LayerGone,
    Note,
    TagGone,
    TagKept,
)
from mirror.ledger.stock import Stock
from mirror.ledger.waiting import Batches
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from tests.ledger.inventorykit import APP, OTHER, SIZE, digest

# Images by what they name: two of them are indexes, and `x` names one that may never come.
PARTS = {"i": "ab", "j": "bc", "k": "cd", "x": "ijz", "y": "k"}
FAR = 1e9  # later than anything here: nothing counts as used since
ROWS = """SELECT name, digest, image.used, image.id FROM image JOIN blob ON blob.id = image.blob
    JOIN repository ON repository.id = image.repository"""
REPOSITORIES = st.sampled_from([APP, OTHER])
IMAGES = st.sampled_from(sorted(PARTS))
BLOBS = st.sampled_from("abcdijkxyz")
TAGS = st.sampled_from([Tag("1"), Tag("2")])


def digests(letters: str) -> tuple[Digest, ...]:
    return tuple(map(digest, letters))


class Inventory(RuleBasedStateMachine):
    """`images`: when last used, None where nobody noted it; the rest is what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.stock = Stock(None)
        self.stock.open()
        self.now = 1000.0
        self.images: dict[tuple[Repository, str], float | None] = {}
        self.blobs: set[str] = set()
        self.layers: set[tuple[Repository, str]] = set()
        self.tags: dict[tuple[Repository, Tag], str] = {}
        self.bare: set[str] = set()  # used before the first survey has ended
        self.surveying = False
        self.touched: set[object] = set()  # noted or gone since the survey began
        self.given: set[str] = set()  # to clients, since then

    def note(self, note: Note) -> None:
        self.now += 1
        self.stock.write(Batches([note], {}))

    @rule(repository=REPOSITORIES, blob=BLOBS)
    def blob_kept(self, repository: Repository, blob: str) -> None:
        self.use_above(repository, blob, self.now)
        self.note(BlobKept(repository, digest(blob), SIZE, self.now))
        self.blobs.add(blob)
        self.layers.add((repository, blob))
        self.touched |= {("blob", blob), ("layer", repository, blob)}

    @rule(repository=REPOSITORIES, image=IMAGES)
    def image_kept(self, repository: Repository, image: str) -> None:
        self.use_above(repository, image, self.now)
        self.images[repository, image] = self.now
        self.note(ImageKept(repository, digest(image), SIZE, digests(PARTS[image]), self.now))
        self.blobs.add(image)
        self.touched |= {("blob", image), ("image", repository, image)}

    @rule(repository=REPOSITORIES, tag=TAGS, image=IMAGES)
    def tag_kept(self, repository: Repository, tag: Tag, image: str) -> None:
        self.note(TagKept(repository, tag, digest(image), self.now, "upstream"))
        self.tags[repository, tag] = image
        self.touched.add(("tag", repository, tag))

    @rule(repository=REPOSITORIES, blob=BLOBS)
    def used(self, repository: Repository, blob: str) -> None:
        self.now += 1
        if (repository, blob) in self.images:
            for each in {blob, *PARTS[blob]}:
                if (repository, each) in self.images:
                    self.images[repository, each] = self.now
        self.use_above(repository, blob, self.now)
        if not self.stock.complete:
            self.bare.add(blob)
        self.given.add(blob)
        self.stock.write(Batches([], {(digest(blob), repository): (self.now, 1)}))

    def use_above(self, repository: Repository, blob: str, now: float) -> None:
        """What names it, the one used last, was used too; and what names that. To be told before it is."""
        rows = self.stock.read(lambda connection: connection.execute(ROWS).fetchall())
        written = {(name, value): (used, number) for name, value, used, number in rows}
        for _level in range(2):
            above = []
            for (place, image), used in self.images.items():
                if place == repository and blob in PARTS[image]:
                    before, number = written[place.name, raw(digest(image))]
                    above.append((before if used is None else used, number, image))
            if not above:
                return
            blob = max(above)[2]
            self.images[repository, blob] = now

    @rule(blob=BLOBS)
    def blob_gone(self, blob: str) -> None:
        self.note(BlobGone(digest(blob)))
        self.blobs.discard(blob)
        self.touched.add(("blob", blob))

    @rule(repository=REPOSITORIES, blob=BLOBS)
    def layer_gone(self, repository: Repository, blob: str) -> None:
        self.note(LayerGone(repository, digest(blob)))
        self.layers.discard((repository, blob))
        self.touched.add(("layer", repository, blob))

    @rule(repository=REPOSITORIES, image=IMAGES)
    def image_gone(self, repository: Repository, image: str) -> None:
        self.note(ImageGone(repository, digest(image)))
        self.images.pop((repository, image), None)
        self.touched.add(("image", repository, image))

    @rule(repository=REPOSITORIES, tag=TAGS)
    def tag_gone(self, repository: Repository, tag: Tag) -> None:
        self.note(TagGone(repository, tag, self.now, None))
        self.tags.pop((repository, tag), None)
        self.touched.add(("tag", repository, tag))

    @rule(repository=REPOSITORIES, image=IMAGES)
    def drop_image(self, repository: Repository, image: str) -> None:
        before = self.named()
        dropped = self.stock.change(
            lambda rows: asks.drop_image(rows, repository.name, raw(digest(image)), self.now)
        )
        assert (dropped is None) == ((repository, image) not in self.images)
        if dropped is None:
            return
        del self.images[repository, image]
        pointing = {key for key, to in self.tags.items() if key[0] == repository and to == image}
        for key in pointing:
            del self.tags[key]
        self.touched |= {("image", repository, image), *(("tag", *key) for key in pointing)}
        freed = (before - self.named()) & self.blobs
        assert {loose.digest for loose in dropped.blobs} == {digest(blob) for blob in freed}
        assert set(dropped.tags) == {tag for _, tag in pointing}
        here = {(repository, blob) for blob in {image, *PARTS[image]} - freed}
        stray = {blob for _, blob in here & self.layers if blob not in self.named_in(repository)}
        assert set(dropped.links) == {digest(blob) for blob in stray}
        for loose in dropped.blobs:
            linked = {place for place, blob in self.layers if digest(blob) == loose.digest}
            assert set(loose.repositories) == linked

    @rule(blob=BLOBS)
    def drop_blob(self, blob: str) -> None:
        # While a survey goes on, what is new stays, unless it is to go in any case.
        since = math.inf if self.surveying else self.now
        dropped = self.stock.change(lambda rows: asks.drop_blob(rows, raw(digest(blob)), since))
        assert (dropped is not None) == (blob in self.blobs - self.named())
        if dropped is not None:
            gone = {(place, each) for place, each in self.layers if each == blob}
            self.touched |= {("blob", blob), *(("layer", *key) for key in gone)}
            self.blobs.discard(blob)
            self.layers -= gone

    @rule()
    def begin_survey(self) -> None:
        self.stock.begin_survey(FAR)
        self.surveying = True
        self.touched, self.given = set(), set()

    @precondition(lambda self: self.surveying)
    @rule(
        images=st.sets(st.tuples(REPOSITORIES, IMAGES)),
        blobs=st.sets(BLOBS),
        layers=st.sets(st.tuples(REPOSITORIES, BLOBS)),
        tags=st.dictionaries(st.tuples(REPOSITORIES, TAGS), IMAGES),
    )
    def end_survey(
        self,
        images: set[tuple[Repository, str]],
        blobs: set[str],
        layers: set[tuple[Repository, str]],
        tags: dict[tuple[Repository, Tag], str],
    ) -> None:
        """A tree of whatever: it is right about all that nobody has touched since the survey began."""
        self.stock.see(survey.see_blobs, [SeenBlob(digest(blob), SIZE, 5.0) for blob in blobs], 100)
        self.stock.see(survey.see_layers, [SeenLink(place, digest(blob)) for place, blob in layers], 100)
        named = {(place, digest(image)): digests(PARTS[image]) for place, image in images}
        unread = self.stock.look_for([SeenLink(*key) for key in named])
        facts = [SeenParts(*key, named[key]) for key in ((link.repository, link.digest) for link in unread)]
        self.stock.see(survey.see_parts, facts, 100)
        seen = [SeenTag(place, tag, digest(to), 5.0) for (place, tag), to in tags.items()]
        self.stock.see(survey.see_tags, seen, 100)
        while self.stock.end_survey() is None:
            pass
        self.surveying = False
        touched, given = self.touched, self.given
        self.blobs = {blob for blob in self.blobs if ("blob", blob) in touched or blob in given} | {
            blob for blob in blobs if ("blob", blob) not in touched
        }
        self.layers = {key for key in self.layers if ("layer", *key) in touched} | {
            key for key in layers if ("layer", *key) not in touched
        }
        kept = {
            key: used
            for key, used in self.images.items()
            if ("image", *key) in touched or key in images or key[1] in given
        }
        new = {key for key in images if ("image", *key) not in touched}
        self.images = {**dict.fromkeys(new), **kept}
        self.tags = {key: to for key, to in self.tags.items() if ("tag", *key) in touched} | {
            key: to for key, to in tags.items() if ("tag", *key) not in touched
        }

    def named(self) -> set[str]:
        return self.named_in(APP) | self.named_in(OTHER)

    def named_in(self, repository: Repository) -> set[str]:
        images = [image for place, image in self.images if place == repository]
        return {*images, *(part for image in images for part in PARTS[image])}

    @invariant()
    def the_total_is_that_of_the_blobs(self) -> None:
        assert self.stock.read(asks.total) == Total(len(self.blobs), SIZE * len(self.blobs))

    @invariant()
    def loose_is_what_no_image_names(self) -> None:
        found = self.stock.read(lambda connection: asks.loose(connection, 100, FAR))
        assert {loose.digest for loose in found} == {digest(blob) for blob in self.blobs - self.named()}

    @invariant()
    def each_blob_is_linked_where_it_is(self) -> None:
        for blob in self.blobs:
            kept = self.stock.read(partial(asks.blob, digest=raw(digest(blob))))
            assert kept is not None
            assert set(kept.repositories) == {place for place, each in self.layers if each == blob}

    @invariant()
    def images_come_by_their_use_and_with_their_tags(self) -> None:
        candidates = self.stock.read(lambda connection: asks.oldest(connection, 100, FAR))
        assert [candidate.used for candidate in candidates] == sorted(each.used for each in candidates)
        found = {(each.repository, each.digest): each for each in candidates if each.repository is not None}
        assert set(found) == {(place, digest(image)) for place, image in self.images}
        for (place, image), used in self.images.items():
            candidate = found[place, digest(image)]
            assert used is None or candidate.used == used
            above = [each for at, each in self.images if at == place and image in PARTS[each]]
            tags = {tag for (at, tag), to in self.tags.items() if at == place and to in {image, *above}}
            assert set(candidate.tags) == tags

    @invariant()
    def nothing_is_left_that_is_not_mentioned(self) -> None:
        mentioned = self.named() | self.blobs | {blob for _, blob in self.layers} | set(self.tags.values())
        found = self.stock.read(lambda connection: connection.execute("SELECT digest FROM blob").fetchall())
        bare = {value for (value,) in found} - {raw(digest(each)) for each in mentioned}
        assert bare <= {raw(digest(each)) for each in self.bare}

    def teardown(self) -> None:
        self.stock.close()


TestInventory = Inventory.TestCase
TestInventory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
