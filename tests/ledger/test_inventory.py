"""What the inventory knows of what was noted, and what a drop leaves behind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.ledger import inventory as module
from mirror.ledger import rows as rows_module
from mirror.ledger import uses, waiting
from mirror.ledger.facts import Loose, Move, Total, Use
from mirror.ledger.file import NotKept
from mirror.ledger.inventory import Inventory
from mirror.ledger.stock import Stock
from mirror.ledger.waiting import USES_LIMIT, Batches
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from tests.ledger.inventorykit import APP, OTHER, SIZE, T0, Tree, digest, name, names, pull, rows, running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror" / "inventory.sqlite"


async def test_a_restart_keeps_it(path: Path) -> None:
    async with running(path) as inventory:
        pull(inventory, "i", "ab", tag="1")
        inventory.note_use(digest("i"), APP, T0 + 5)
    async with running(path) as inventory:
        (found,) = await inventory.oldest(10, T0)
        assert (found.repository, found.digest, found.size) == (APP, digest("i"), SIZE)
        assert (found.used, found.hits, found.tags) == (T0 + 5, 1, (Tag("1"),))
        assert await inventory.total() == Total(3, 3 * SIZE)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_blob_of_two_repositories_goes_with_the_last_image_that_names_it(
    path: Path, kept: bool
) -> None:
    async with running(path if kept else None) as inventory:
        pull(inventory, "i", "ab")
        pull(inventory, "j", "bc", repository=OTHER)
        first = await inventory.drop_image(APP, digest("i"))
        assert first is not None
        assert [loose.digest for loose in first.blobs] == [digest("i"), digest("a")]
        assert first.links == (digest("b"),)
        assert await inventory.drop_blob(digest("b")) is None
        second = await inventory.drop_image(OTHER, digest("j"))
        assert second is not None
        assert {loose.digest for loose in second.blobs} == {digest(each) for each in "jbc"}
        assert second.links == ()
        assert await inventory.drop_blob(digest("b")) == Loose(digest("b"), SIZE, (APP, OTHER))


async def test_an_image_in_two_repositories_leaves_its_blobs_to_the_other() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "a")
        pull(inventory, "i", "a", repository=OTHER)
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        assert (dropped.blobs, dropped.links) == ((), (digest("a"),))
        assert [found.repository for found in await inventory.oldest(10, T0)] == [OTHER]


async def test_a_child_of_an_index_is_an_image_and_its_manifest_stays_with_the_index() -> None:
    async with running(None) as inventory:
        pull(inventory, "x", "ij", tag="latest")
        pull(inventory, "i", "a", T0 + 1)
        pull(inventory, "j", "b", T0 + 2)
        found = await inventory.oldest(10, T0)
        assert name(found, "xijab") == ["i", "x", "j"]  # the index was used when its last child was
        assert [candidate.tags for candidate in found] == [(Tag("latest"),)] * 3
        child = await inventory.drop_image(APP, digest("i"))
        assert child is not None
        assert [loose.digest for loose in child.blobs] == [digest("a")]
        index = await inventory.drop_image(APP, digest("x"))
        assert index is not None
        assert [loose.digest for loose in index.blobs] == [digest("x"), digest("i")]
        assert index.tags == (Tag("latest"),)
        assert await names(inventory, "xijab") == ["x", "i", "a", "j"]


async def test_a_link_of_what_is_still_an_image_here_stays() -> None:
    async with running(None) as inventory:
        pull(inventory, "x", "i")
        pull(inventory, "i", "a")
        index = await inventory.drop_image(APP, digest("x"))
        assert index is not None
        assert ([loose.digest for loose in index.blobs], index.links) == ([digest("x")], ())


async def test_what_an_image_leaves_counts_until_it_is_dropped_itself() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "ab")
        await inventory.drop_image(APP, digest("i"))
        assert await inventory.total() == Total(3, 3 * SIZE)
        assert sorted(await names(inventory, "iab")) == ["a", "b", "i"]
        for each in "iab":
            assert await inventory.drop_blob(digest(each)) is not None
        assert await inventory.total() == Total(0, 0)
        assert await inventory.oldest(10, T0) == []
        assert await inventory.drop_blob(digest("a")) is None


async def test_a_drop_takes_the_tags_that_point_to_the_image_and_no_others() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "", tag="1")
        inventory.note_tag(APP, Tag("latest"), digest("i"), T0, "upstream")
        inventory.note_tag(APP, Tag("next"), digest("j"), T0, "upstream")
        pull(inventory, "i", "", repository=OTHER, tag="2")
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        assert dropped.tags == (Tag("1"), Tag("latest"))
        assert [found.tags for found in await inventory.oldest(10, T0)] == [(Tag("2"),)]
        assert await inventory.drop_image(APP, digest("i")) is None


async def test_a_moved_tag_points_to_the_new_image_only() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "", T0, tag="latest")
        pull(inventory, "j", "", T0 + 1, tag="latest")
        assert [found.tags for found in await inventory.oldest(10, T0)] == [(), (Tag("latest"),)]
        inventory.note_tag_gone(APP, Tag("latest"), T0)
        assert [found.tags for found in await inventory.oldest(10, T0)] == [(), ()]


async def test_an_image_that_was_used_meanwhile_stays() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "a")
        inventory.note_use(digest("i"), APP, T0 + 9)
        assert await inventory.drop_image(APP, digest("i"), unused_since=T0 + 8) is None
        assert await inventory.drop_image(APP, digest("i"), unused_since=T0 + 9) is not None
        inventory.note_use(digest("a"), APP, T0 + 9)
        assert await inventory.drop_blob(digest("a"), unused_since=T0 + 8) is None
        assert await inventory.drop_blob(digest("a"), unused_since=T0 + 9) is not None


async def test_a_blob_that_an_image_names_again_stays() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "a")
        await inventory.drop_image(APP, digest("i"))
        inventory.note_image(APP, digest("j"), SIZE, [digest("a")], T0)
        assert await inventory.drop_blob(digest("a")) is None


async def test_the_longest_unused_comes_first_whatever_it_is() -> None:
    async with running(None) as inventory:
        for number, each in enumerate("ijkl"):
            pull(inventory, each, "", T0 + number)
        inventory.note_blob(APP, digest("m"), SIZE, T0 + 1.5)
        inventory.note_use(digest("j"), APP, T0 + 10)
        inventory.note_use(digest("k"), None, T0 + 11)
        assert await names(inventory, "ijklm") == ["i", "m", "l", "j", "k"]
        assert await names(inventory, "ijklm", limit=2) == ["i", "m"]
        third = (await inventory.oldest(3, T0))[-1]
        assert name(await inventory.oldest(2, T0, third.place), "ijkl") == ["j", "k"]


async def test_asked_in_slices_each_comes_once_though_many_were_used_at_the_same_time() -> None:
    async with running(None) as inventory:
        for number, each in enumerate("ijkl"):
            pull(inventory, each, "", T0 + number // 3)
        for number, each in enumerate("mnop"):
            inventory.note_blob(APP, digest(each), SIZE, T0 + number // 3)
        together = await names(inventory, "ijklmnop")
        assert together == list("ijkmnolp")
        for limit in (1, 2, 3):
            slices, after = list[str](), None
            while found := await inventory.oldest(limit, T0, after):
                slices += name(found, "ijklmnop")
                after = found[-1].place
            assert slices == together


async def test_a_use_counts_for_the_image_of_its_repository_only() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "")
        pull(inventory, "i", "", repository=OTHER)
        inventory.note_use(digest("i"), APP, T0 + 1)
        inventory.note_use(digest("i"), APP, T0 + 2)
        inventory.note_use(digest("i"), Repository("no/such"), T0 + 3)
        found = {candidate.repository: candidate for candidate in await inventory.oldest(10, T0)}
        assert (found[APP].used, found[APP].hits) == (T0 + 2, 2)
        assert (found[OTHER].used, found[OTHER].hits) == (T0, 0)
        kept = await inventory.blob(digest("i"))
        assert kept is not None
        assert (kept.used, kept.hits) == (T0 + 3, 3)


async def used(inventory: Inventory, known: str, repository: Repository = APP) -> dict[str, float]:
    """When the images of a repository were used last, in seconds after T0."""
    found = [each for each in await inventory.oldest(100, T0 + 1e6) if each.repository == repository]
    return dict(zip(name(found, known), [each.used - T0 for each in found], strict=True))


async def test_a_layer_in_use_is_its_image_in_use_and_so_is_the_index_above() -> None:
    async with running(None) as inventory:
        pull(inventory, "x", "ij")
        pull(inventory, "i", "a")
        pull(inventory, "j", "b")
        pull(inventory, "i", "a", repository=OTHER)
        inventory.note_use(digest("a"), APP, T0 + 5)
        assert await used(inventory, "xij") == {"x": 5, "i": 5, "j": 0}
        assert await used(inventory, "i", OTHER) == {"i": 0}


async def test_a_layer_in_use_keeps_only_the_image_that_was_used_last_of_those_that_name_it() -> None:
    async with running(None) as inventory:
        for number, image in enumerate("ijk"):
            pull(inventory, image, "a", T0 + number)
        inventory.note_use(digest("a"), APP, T0 + 7)
        inventory.note_use(digest("j"), APP, T0 + 5)  # in one batch: which was noted first does not matter
        assert await used(inventory, "ijk") == {"i": 0, "j": 7, "k": 2}


async def test_a_layer_that_is_kept_counts_as_a_use_of_its_image() -> None:
    """The manifest was asked for when the pull began; a large layer comes much later."""
    async with running(None) as inventory:
        pull(inventory, "i", "")
        pull(inventory, "j", "ab", T0 + 1)
        inventory.note_blob(APP, digest("b"), SIZE, T0 + 600)
        inventory.note_blob(None, digest("a"), SIZE, T0 + 900)  # what a broken write has left is no use
        assert await used(inventory, "ij") == {"i": 0, "j": 600}


async def test_an_index_in_use_is_all_its_kept_children_in_use() -> None:
    async with running(None) as inventory:
        pull(inventory, "x", "ijz")  # z never came
        pull(inventory, "i", "a")
        pull(inventory, "j", "a")
        pull(inventory, "k", "a")
        inventory.note_use(digest("x"), APP, T0 + 5)
        assert await used(inventory, "xijk") == {"k": 0, "x": 5, "i": 5, "j": 5}


async def test_what_is_coming_is_in_use_and_nobody_was_given_it() -> None:
    async with running(None) as inventory:
        inventory.note_image(APP, digest("i"), SIZE, [digest("a")], T0)
        inventory.note_image(OTHER, digest("j"), SIZE, [digest("a")], T0 + 1)
        inventory.note_coming(digest("a"), T0 + 5)
        inventory.note_coming(digest("unknown"), T0 + 5)
        assert await used(inventory, "i") == {"i": 0}
        assert await used(inventory, "j", OTHER) == {"j": 5}
        inventory.note_blob(OTHER, digest("a"), SIZE, T0 + 6)
        kept = await inventory.blob(digest("a"))
        assert kept is not None
        assert kept.hits == 0


async def test_of_very_many_images_that_name_a_layer_the_newest_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uses, "ABOVE_LIMIT", 2)
    async with running(None) as inventory:
        pull(inventory, "i", "a", T0 + 3)
        pull(inventory, "j", "a", T0 + 2)
        pull(inventory, "k", "", T0)
        inventory.note_image(APP, digest("k"), SIZE, [digest("a")], T0)
        pull(inventory, "l", "a", T0)
        inventory.note_use(digest("a"), APP, T0 + 5)
        assert await used(inventory, "ijkl") == {"i": 3, "j": 5, "k": 0, "l": 0}


async def test_the_order_of_uses_does_not_matter() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "")
        inventory.note_use(digest("i"), APP, T0 + 9)
        await inventory.flush()
        inventory.note_use(digest("i"), APP, T0 + 5)
        assert [candidate.used for candidate in await inventory.oldest(1, T0)] == [T0 + 9]


async def test_what_is_noted_twice_counts_once(path: Path) -> None:
    async with running(path) as inventory:
        for _ in range(2):
            pull(inventory, "i", "aab", tag="1")
            inventory.note_blob(OTHER, digest("a"), SIZE, T0)
            assert await inventory.total() == Total(3, 3 * SIZE)
        assert len(await inventory.history(APP, Tag("1"))) == 1
        kept = await inventory.blob(digest("a"))
        assert kept is not None
        assert kept.repositories == (APP, OTHER)
    assert rows(path, "SELECT count(*) FROM part") == [(2,)]


async def test_a_use_of_what_is_not_known_counts_for_nothing(path: Path) -> None:
    async with running(path) as inventory:
        await inventory.begin_survey(T0)
        await inventory.end_survey()
        inventory.note_use(digest("a"), APP, T0 + 50)
        await inventory.used([Use(APP, digest("b"), T0)])
        assert await inventory.oldest(10, T0) == []
        pull(inventory, "a", "")
        assert [candidate.used for candidate in await inventory.oldest(1, T0)] == [T0]
    assert rows(path, "SELECT count(*) FROM blob") == [(1,)]


async def test_a_use_before_the_first_survey_has_ended_is_remembered(path: Path) -> None:
    async with running(path) as inventory:
        await inventory.begin_survey(T0)
        inventory.note_use(digest("i"), APP, T0 + 50)
        inventory.note_use(digest("never seen"), APP, T0 + 50)
        await inventory.flush()
        await Tree(T0 - 100).add("i", "a").add("j", "a").show(inventory)
        await inventory.end_survey()
        assert await names(inventory, "ij", now=T0 + 50) == ["j", "i"]
        assert (await inventory.oldest(2, T0 + 50))[1].used == T0 + 50
    assert rows(path, "SELECT count(*) FROM blob WHERE size IS NULL") == [(0,)]


async def test_a_use_of_what_is_noted_at_the_same_time_counts() -> None:
    async with running(None) as inventory:
        inventory.note_use(digest("i"), APP, T0 + 5)
        pull(inventory, "i", "")
        assert [candidate.used for candidate in await inventory.oldest(1, T0)] == [T0 + 5]


async def test_what_somebody_else_remembers_counts_only_where_it_is_later() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "")
        pull(inventory, "j", "")
        await inventory.used([Use(APP, digest("i"), T0 + 7), Use(APP, digest("j"), T0 - 7)])
        found = await inventory.oldest(10, T0)
        assert [(candidate.used, candidate.hits) for candidate in found] == [(T0, 0), (T0 + 7, 0)]


async def test_nothing_was_used_in_the_future_by_more_than_a_minute() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "", T0 + 1e8)
        pull(inventory, "j", "", T0 + 59)
        inventory.note_blob(APP, digest("k"), SIZE, T0 + 61)
        found = await inventory.oldest(10, T0)
        assert name(found, "ijk") == ["i", "k", "j"]
        assert [candidate.used for candidate in found] == [T0, T0, T0 + 59]
        assert await inventory.drop_image(APP, digest("i"), unused_since=T0) is not None


async def test_many_uses_in_the_future_come_last_until_they_are_set_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirror.ledger.asks.CLAMPED_AT_ONCE", 2)
    async with running(None) as inventory:
        for each in "abcde":
            pull(inventory, each, "", T0 + 1e8)
        pull(inventory, "f", "", T0 + 1)
        first = await inventory.oldest(10, T0)
        assert name(first, "abcdef") == ["a", "b", "f", "c", "d", "e"]
        assert {candidate.used for candidate in first} == {T0, T0 + 1}
        await inventory.oldest(10, T0)
        assert await names(inventory, "abcdef") == ["a", "b", "c", "d", "e", "f"]


async def test_a_clock_that_goes_back_does_not_make_anything_older() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "", T0)
        inventory.note_use(digest("i"), APP, 0.0)
        pull(inventory, "i", "", 0.0)
        assert [candidate.used for candidate in await inventory.oldest(1, T0)] == [T0]


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1.0, 1e300])
async def test_a_time_or_size_or_word_that_makes_no_sense_keeps_nothing_else_out(
    path: Path, now: float
) -> None:
    async with running(path) as inventory:
        inventory.note_use(digest("i"), APP, now)
        inventory.note_image(APP, digest("i"), 1 << 70, [digest("i")], now)
        inventory.note_blob(APP, digest("a"), -5, now)
        inventory.note_tag(APP, Tag("1"), digest("i"), now, "\ud800" * 1000)
        inventory.note_tag_gone(APP, Tag("1"), now, "\ud800")
        inventory.note_scrubbed(digest("a"), now)
        pull(inventory, "j", "")
        assert await inventory.flush()
        assert set(await names(inventory, "ija")) == set("ija")


async def test_what_was_deleted_is_gone() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "ab")
        inventory.note_blob_gone(digest("a"))
        assert await inventory.blob(digest("a")) is None
        assert await inventory.total() == Total(2, 2 * SIZE)
        inventory.note_layer_gone(APP, digest("b"))
        kept = await inventory.blob(digest("b"))
        assert kept is not None
        assert kept.repositories == ()
        inventory.note_image_gone(APP, digest("i"))
        assert sorted(await names(inventory, "iab")) == ["b", "i"]


async def test_nothing_is_left_of_what_is_gone(path: Path) -> None:
    async with running(path) as inventory:
        pull(inventory, "i", "ab", tag="1")
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        for loose in dropped.blobs:
            await inventory.drop_blob(loose.digest)
        pull(inventory, "j", "a", tag="2")
        inventory.note_tag_gone(APP, Tag("2"), T0)
        inventory.note_image_gone(APP, digest("j"))
        for each in "ja":
            inventory.note_layer_gone(APP, digest(each))
            inventory.note_blob_gone(digest(each))
        inventory.note_image_gone(OTHER, digest("j"))
        inventory.note_tag_gone(OTHER, Tag("1"), T0, "upstream")
    for table in ("blob", "image", "part", "layer", "tag"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_the_images_of_a_repository_their_tags_and_what_they_name_are_its_own() -> None:
    async with running(None) as inventory:
        pull(inventory, "x", "i", tag="latest")
        pull(inventory, "i", "a")
        pull(inventory, "j", "b", repository=OTHER, tag="1")
        assert await inventory.images(APP) == [digest("x"), digest("i")]
        assert await inventory.images(Repository("no/such")) == []
        assert await inventory.tags_of(APP, digest("x")) == [Tag("latest")]
        assert await inventory.tags_of(APP, digest("i")) == []
        assert await inventory.tags_of(APP, digest("j")) == []
        assert [await inventory.is_named(APP, digest(each)) for each in "xiab"] == [False, True, True, False]


async def test_uses_are_known_since_the_first_survey_began(path: Path) -> None:
    async with running(path) as inventory:
        assert await inventory.known_since(T0, 100) is None
        for began in (T0 + 5, T0 + 9):
            await inventory.begin_survey(began)
            await inventory.end_survey()
    async with running(path) as inventory:
        assert await inventory.known_since(T0 + 90, 100) == T0 + 5
        assert await inventory.known_since(T0 + 190, 100) == T0 + 5


@pytest.mark.parametrize(
    ("first", "then", "since"),
    [
        (T0, T0 + 101, T0 + 101),  # put forward, or switched off for long
        (T0, T0 - 1000, T0 - 1000),  # it was in the future when all began
        (T0, T0 + 99, T0),
    ],
)
async def test_after_a_jump_of_the_clock_uses_count_from_then_on(
    path: Path, first: float, then: float, since: float
) -> None:
    async with running(path) as inventory:
        await inventory.begin_survey(first)
        await inventory.end_survey()
        assert await inventory.known_since(first, 100) == first
    async with running(path) as inventory:
        assert await inventory.known_since(then, 100) == since
        assert await inventory.known_since(then + 50, 100) == since


async def test_loose_blobs_are_those_that_no_image_names() -> None:
    async with running(None) as inventory:
        pull(inventory, "i", "a")
        inventory.note_blob(APP, digest("m"), SIZE, T0 + 2)
        inventory.note_blob(OTHER, digest("n"), SIZE, T0 + 1)
        assert [loose.digest for loose in await inventory.loose(10, T0 + 5)] == [digest("n"), digest("m")]
        assert await inventory.loose(10, T0 + 2) == [Loose(digest("n"), SIZE, (OTHER,))]
        assert len(await inventory.loose(1, T0 + 5)) == 1


async def test_blobs_are_scrubbed_in_turn() -> None:
    async with running(None) as inventory:
        for number, each in enumerate("abc"):
            inventory.note_blob(APP, digest(each), SIZE, T0 + number)
        inventory.note_scrubbed(digest("a"), T0 + 9)
        inventory.note_scrubbed(digest("gone"), T0 + 9)
        due = await inventory.unscrubbed(10, T0 + 5)
        assert [kept.digest for kept in due] == [digest("b"), digest("c")]
        assert await inventory.unscrubbed(10, T0 + 1) == []
        assert len(await inventory.unscrubbed(1, T0 + 5)) == 1


async def test_what_a_clock_that_was_wrong_has_compared_is_due() -> None:
    async with running(None) as inventory:
        for each in "ab":
            inventory.note_blob(APP, digest(each), SIZE, T0)
        inventory.note_scrubbed(digest("a"), T0 + 1e7)
        inventory.note_scrubbed(digest("b"), T0 + 50)  # so far clocks may differ
        due = await inventory.unscrubbed(10, T0 - 100, T0)
        assert [kept.digest for kept in due] == [digest("a")]
        inventory.note_scrubbed(digest("a"), T0)
        assert await inventory.unscrubbed(10, T0 - 100, T0) == []


async def test_the_history_of_a_tag_has_its_moves_only() -> None:
    async with running(None) as inventory:
        for number, each in enumerate("iijji"):
            inventory.note_tag(APP, Tag("1"), digest(each), T0 + number, "upstream")
        inventory.note_tag_gone(APP, Tag("1"), T0 + 5)
        inventory.note_tag(APP, Tag("1"), digest("i"), T0 + 6, "upstream")
        inventory.note_tag_gone(APP, Tag("1"), T0 + 7, "upstream")
        inventory.note_tag_gone(APP, Tag("1"), T0 + 8, "upstream")
        assert await inventory.history(APP, Tag("1")) == [
            Move(None, T0 + 7, "upstream"),
            Move(digest("i"), T0 + 4, "upstream"),
            Move(digest("j"), T0 + 2, "upstream"),
            Move(digest("i"), T0, "upstream"),
        ]
        assert await inventory.history(APP, Tag("2")) == []
        assert await inventory.history(OTHER, Tag("1")) == []


async def test_of_a_tags_history_the_newest_hundred_are_kept() -> None:
    async with running(None) as inventory:
        inventory.note_tag(APP, Tag("2"), digest("i"), T0, "upstream")
        for number in range(rows_module.HISTORY_LIMIT + 20):
            inventory.note_tag(APP, Tag("1"), digest(str(number % 2)), T0 + number, "upstream")
        found = await inventory.history(APP, Tag("1"))
        assert [move.at - T0 for move in found] == list(range(119, 19, -1))
        assert len(await inventory.history(APP, Tag("2"))) == 1


async def test_what_comes_and_goes_in_one_batch_is_what_came_last(path: Path) -> None:
    async with running(path) as inventory:
        for _ in range(3):
            inventory.note_tag(APP, Tag("1"), digest("i"), T0, "upstream")
            inventory.note_tag_gone(APP, Tag("1"), T0)
        inventory.note_tag(APP, Tag("1"), digest("i"), T0, "upstream")
        pull(inventory, "i", "a")
        inventory.note_image_gone(APP, digest("i"))
        pull(inventory, "i", "b")
        assert [candidate.tags for candidate in await inventory.oldest(1, T0)] == [(Tag("1"),)]
    named = "SELECT digest FROM part JOIN blob ON blob.id = part.blob"
    assert rows(path, named) == [(bytes.fromhex(digest("b").hex),)]


async def test_nothing_is_left_of_what_a_tag_pointed_to_by_name_only(path: Path) -> None:
    async with running(path) as inventory:
        for each in "ijk":
            inventory.note_tag(APP, Tag("1"), digest(each), T0, "upstream")
    assert rows(path, "SELECT digest FROM blob") == [(bytes.fromhex(digest("k").hex),)]


async def test_digests_of_both_algorithms_are_kept_apart() -> None:
    long = Digest.of(b"a", "sha512")
    async with running(None) as inventory:
        inventory.note_blob(APP, long, 7, T0)
        inventory.note_blob(APP, digest("a"), 8, T0 + 1)
        found = await inventory.oldest(10, T0)
        assert [(candidate.digest, candidate.size) for candidate in found] == [(long, 7), (digest("a"), 8)]


async def test_what_is_noted_is_written_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    written = asyncio.Event()
    loop, write = asyncio.get_running_loop(), Stock.write

    def spy(stock: Stock, batches: Batches, *, complete: bool | None = None) -> None:
        write(stock, batches, complete=complete)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(Stock, "write", spy)
    async with running(path) as inventory:
        pull(inventory, "i", "")
        async with asyncio.timeout(30):
            await written.wait()
        assert rows(path, "SELECT count(*) FROM image") == [(1,)]


@pytest.mark.parametrize("notes", [True, False])
async def test_much_that_waits_is_written_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, notes: bool
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 1000.0)
    monkeypatch.setattr(waiting, "NOTES_EARLY", 50)
    monkeypatch.setattr(waiting, "USES_EARLY", 50)
    written = asyncio.Event()
    loop, write = asyncio.get_running_loop(), Stock.write

    def spy(stock: Stock, batches: Batches, *, complete: bool | None = None) -> None:
        write(stock, batches, complete=complete)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(Stock, "write", spy)
    async with running(path) as inventory:
        for number in range(50):
            if notes:
                inventory.note_blob(APP, digest(str(number)), SIZE, T0)
            else:
                inventory.note_use(digest(str(number)), APP, T0)
        async with asyncio.timeout(30):
            await written.wait()


async def test_uses_that_wait_take_a_bounded_room(path: Path) -> None:
    inventory = Inventory(path)  # not open: nothing is written
    for number in range(USES_LIMIT + 1000):
        inventory.note_use(digest(str(number)), APP, T0)
    for _ in range(3):
        inventory.note_use(digest("0"), APP, T0 + 1)
    assert len(inventory._waiting._uses) == USES_LIMIT
    assert inventory._waiting._uses[digest("0"), APP] == (T0 + 1, 4)
    assert not await inventory.flush()
    assert len(inventory._waiting._uses) == USES_LIMIT


async def test_notes_that_find_no_room_make_the_inventory_incomplete(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "NOTES_LIMIT", 10)
    async with running(path) as inventory:
        await inventory.begin_survey(T0)
        await inventory.end_survey()
        told = [inventory.complete]
        with capture_logs() as logs:
            pull(inventory, "i", [str(number) for number in range(20)])
        told.append(inventory.complete)
        await inventory.flush()
        told.append(inventory.complete)
    assert [line["event"] for line in logs] == ["inventory.lost"]
    async with running(path) as inventory:
        told.append(inventory.complete)
        await inventory.begin_survey(T0)
        await inventory.end_survey()
        told.append(inventory.complete)
    async with running(path) as inventory:
        told.append(inventory.complete)
    assert told == [True, False, False, False, True, True]


async def test_an_inventory_that_is_not_open_takes_notes_and_answers_nothing(path: Path) -> None:
    inventory = Inventory(path)
    pull(inventory, "i", "a")
    assert not await inventory.flush()
    with pytest.raises(NotKept, match="not open"):
        await inventory.total()
    await inventory.close()
    await inventory.open()
    assert await inventory.total() == Total(2, 2 * SIZE)
    await inventory.close()


async def test_a_question_waits_for_a_disk_that_hangs_no_longer_than_it_may(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    async with running(path) as inventory:
        pull(inventory, "i", "a")
        change = Stock.change

        def hang(stock: Stock, work: object) -> object:
            assert gate.wait(30)
            return change(stock, work)  # type: ignore[arg-type]  # passed on as it came

        monkeypatch.setattr(Stock, "change", hang)
        monkeypatch.setattr(module, "ASK_SECONDS", 0.02)
        with pytest.raises(NotKept, match="does not answer"):
            await inventory.total()
        gate.set()
        monkeypatch.undo()
        assert await inventory.total() == Total(2, 2 * SIZE)


async def test_questions_and_notes_at_the_same_time_see_all_that_was_noted_before(path: Path) -> None:
    async def one(inventory: Inventory, number: int) -> int:
        inventory.note_blob(APP, digest(str(number)), SIZE, T0)
        return (await inventory.total()).blobs

    async with running(path) as inventory:
        counts = await asyncio.gather(*(one(inventory, number) for number in range(50)))
        assert min(counts) >= 1
        assert (await inventory.total()).blobs == 50
