"""A survey makes the inventory what the tree is, while pulls and deletions go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mirror.ledger import survey
from mirror.ledger.facts import Move, SeenBlob, SeenLink, SeenParts, SeenTag, Surveyed, Total
from mirror.ledger.inventory import Inventory, SurveyLost
from mirror.ledger.marks import Marks
from mirror.oci.names import Tag
from tests.ledger.inventorykit import APP, OTHER, SIZE, T0, Tree, digest, name, names, pull, rows, running

LATER = T0 + 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inventory.sqlite"


async def surveyed(inventory: Inventory, tree: Tree, now: float = LATER) -> Surveyed:
    await inventory.begin_survey(now)
    await tree.show(inventory)
    return await inventory.end_survey()


def state(inventory: Inventory) -> bool:
    return inventory.complete


@pytest.mark.parametrize("kept", [True, False])
async def test_a_survey_tells_all_that_is_in_the_tree(path: Path, kept: bool) -> None:
    tree = Tree().add("i", "ab", tag="1").add("j", "bc", OTHER)
    tree.blobs["m"] = T0 + 5
    async with running(path if kept else None) as inventory:
        assert not state(inventory)
        assert await surveyed(inventory, tree) == Surveyed(0, 0, 0, 0)
        assert state(inventory)
        found = await inventory.oldest(10, LATER)
        assert name(found, "ijm") == ["i", "j", "m"]
        assert [(candidate.used, candidate.tags) for candidate in found] == [
            (T0, (Tag("1"),)),
            (T0, ()),
            (T0 + 5, ()),
        ]
        assert await inventory.total() == Total(6, 6 * SIZE)
        assert await inventory.history(APP, Tag("1")) == [Move(digest("i"), T0, "tree")]
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        assert {loose.digest for loose in dropped.blobs} == {digest("i"), digest("a")}
        assert dropped.links == (digest("b"),)
    async with running(path if kept else None) as inventory:
        assert state(inventory) is kept


async def test_a_second_survey_reads_no_image_and_writes_nothing(path: Path) -> None:
    tree = Tree().add("i", "ab", tag="1").add("j", "bc", OTHER)
    async with running(path) as inventory:
        await surveyed(inventory, tree)
    async with running(path) as inventory:
        assert await inventory.flush()
        before = rows(path, "SELECT * FROM blob"), rows(path, "SELECT * FROM sqlite_sequence")
        await inventory.begin_survey(LATER)
        assert await tree.show(inventory) == 0
        assert await inventory.end_survey() == Surveyed(0, 0, 0, 0)
        assert before == (rows(path, "SELECT * FROM blob"), rows(path, "SELECT * FROM sqlite_sequence"))


async def test_what_is_not_in_the_tree_is_removed(path: Path) -> None:
    tree = Tree().add("i", "ab", tag="1").add("j", "bc", OTHER, tag="2")
    async with running(path) as inventory:
        await surveyed(inventory, tree)
        assert await surveyed(inventory, Tree().add("j", "bc", OTHER)) == Surveyed(2, 1, 2, 2)
        assert await names(inventory, "j") == ["j"]
        assert await inventory.total() == Total(3, 3 * SIZE)
    assert rows(path, "SELECT count(*) FROM blob") == [(3,)]
    assert rows(path, "SELECT count(*) FROM part") == [(2,)]


async def test_a_blob_that_is_gone_is_still_named_by_its_image(path: Path) -> None:
    async with running(path) as inventory:
        await surveyed(inventory, Tree().add("i", "ab"))
        damaged = Tree().add("i", "ab")
        del damaged.blobs["a"]
        assert await surveyed(inventory, damaged) == Surveyed(1, 0, 0, 0)
        inventory.note_blob(APP, digest("a"), SIZE, LATER)
        assert await names(inventory, "i") == ["i"]
        assert await inventory.total() == Total(3, 3 * SIZE)


async def test_what_is_noted_while_it_goes_on_stays(path: Path) -> None:
    tree = Tree().add("i", "ab", tag="1")
    async with running(path) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        await Tree().show(inventory)
        pull(inventory, "i", "ab", LATER - 2000, tag="1")  # again, and by a clock that was set back
        pull(inventory, "j", "cd", LATER - 2000, tag="2")
        assert await inventory.end_survey() == Surveyed(0, 0, 0, 0)
        assert sorted(await names(inventory, "ij")) == ["i", "j"]
        assert await inventory.total() == Total(6, 6 * SIZE)
    assert rows(path, "SELECT count(*) FROM layer") == [(4,)]
    assert rows(path, "SELECT count(*) FROM tag") == [(2,)]


async def test_what_was_used_since_it_began_stays() -> None:
    async with running(None) as inventory:
        await surveyed(inventory, Tree().add("i", "a").add("j", "b"))
        await inventory.begin_survey(LATER)
        inventory.note_use(digest("i"), APP, LATER)
        inventory.note_use(digest("m"), APP, LATER)
        removed = await inventory.end_survey()
        assert removed.images == 1
        assert await names(inventory, "i") == ["i"]


@pytest.mark.parametrize("ahead", [0.0, 3600.0])
async def test_what_was_used_before_it_began_goes_whatever_the_clock_says(ahead: float) -> None:
    """It may have been set back since, or stand."""
    async with running(None) as inventory:
        await surveyed(inventory, Tree())
        pull(inventory, "i", "a", LATER + ahead)
        inventory.note_use(digest("i"), APP, LATER + ahead)
        inventory.note_use(digest("a"), APP, LATER + ahead)
        await inventory.begin_survey(LATER)
        removed = await inventory.end_survey()
        assert (removed.images, removed.blobs) == (1, 2)
        assert await inventory.total() == Total(0, 0)


async def test_what_is_deleted_while_it_goes_on_does_not_come_back(path: Path) -> None:
    tree = Tree().add("i", "ab", tag="1").add("j", "c", tag="2")
    async with running(path) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        for loose in dropped.blobs:
            assert await inventory.drop_blob(loose.digest)
        inventory.note_tag_gone(APP, Tag("2"), LATER)
        inventory.note_image_gone(APP, digest("j"))
        inventory.note_layer_gone(APP, digest("c"))
        inventory.note_blob_gone(digest("c"))
        await inventory.flush()
        assert await tree.show(inventory) == 0  # read before the deletions, told after them
        await inventory.end_survey()
        assert await names(inventory, "j") == ["j"]
        assert await inventory.total() == Total(1, SIZE)
    for table, left in (("blob", 1), ("image", 0), ("layer", 0), ("tag", 0)):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(left,)], table


async def test_what_is_deleted_and_fetched_again_while_it_goes_on_is_there() -> None:
    tree = Tree().add("i", "a", tag="1")
    async with running(None) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        await tree.show(inventory)
        inventory.note_image_gone(APP, digest("i"))
        inventory.note_blob_gone(digest("a"))
        inventory.note_blob_gone(digest("i"))
        pull(inventory, "i", "a", LATER)
        assert await inventory.end_survey() == Surveyed(0, 0, 0, 0)
        assert await names(inventory, "i", now=LATER) == ["i"]
        assert await inventory.total() == Total(2, 2 * SIZE)


async def test_a_tag_that_moves_while_it_goes_on_does_not_move_back() -> None:
    tree = Tree().add("i", "", tag="1").add("j", "")
    async with running(None) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        inventory.note_tag(APP, Tag("1"), digest("j"), LATER, "upstream")
        inventory.note_tag(APP, Tag("new"), digest("j"), LATER, "upstream")
        await inventory.flush()
        await inventory.seen_tags([SeenTag(APP, Tag("new"), digest("i"), T0)])
        await tree.show(inventory)
        await inventory.end_survey()
        assert [move.digest for move in await inventory.history(APP, Tag("1"))] == [digest("j"), digest("i")]
        assert len(await inventory.history(APP, Tag("new"))) == 1
        dropped = await inventory.drop_image(APP, digest("j"))
        assert dropped is not None
        assert dropped.tags == (Tag("1"), Tag("new"))


async def test_a_tag_that_moved_while_nobody_looked_is_moved_by_the_survey() -> None:
    async with running(None) as inventory:
        await surveyed(inventory, Tree().add("i", "", tag="1").add("j", ""))
        await surveyed(inventory, Tree(T0 + 7).add("i", "").add("j", "", tag="1"))
        moves = await inventory.history(APP, Tag("1"))
        assert moves == [Move(digest("j"), T0 + 7, "tree"), Move(digest("i"), T0, "tree")]


async def test_what_was_written_in_the_future_was_used_at_the_beginning_of_the_survey() -> None:
    async with running(None) as inventory:
        await surveyed(inventory, Tree(LATER + 1e9).add("i", "a", tag="1"))
        assert [candidate.used for candidate in await inventory.oldest(10, LATER)] == [LATER]
        kept = await inventory.blob(digest("a"))
        assert kept is not None
        assert (kept.seen, kept.used) == (LATER, LATER)
        await surveyed(inventory, Tree(-5.0).add("j", ""))
        assert (await inventory.oldest(10, LATER))[0].used == 0.0


async def test_a_survey_does_not_make_older_what_is_used() -> None:
    tree = Tree().add("i", "a")
    async with running(None) as inventory:
        pull(inventory, "i", "a", LATER)
        inventory.note_blob_gone(digest("a"))
        await surveyed(inventory, tree)
        assert [candidate.used for candidate in await inventory.oldest(10, LATER)] == [LATER]
        kept = await inventory.blob(digest("a"))
        assert kept is not None
        assert kept.used == LATER


async def test_a_blob_of_another_size_than_before_is_noted_with_the_new_one() -> None:
    async with running(None) as inventory:
        await surveyed(inventory, Tree().add("i", "a"))
        await inventory.begin_survey(LATER)
        await inventory.seen_blobs([SeenBlob(digest("a"), 7, T0), SeenBlob(digest("a"), 7, T0)])
        await inventory.end_survey()
        assert await inventory.total() == Total(1, 7)


async def test_an_image_that_could_not_be_read_is_asked_for_again() -> None:
    link = SeenLink(APP, digest("i"))
    async with running(None) as inventory:
        for _ in range(2):
            await inventory.begin_survey(LATER)
            await inventory.seen_blobs([SeenBlob(digest("i"), SIZE, T0)])
            assert await inventory.seen_images([link]) == [link]
            await inventory.end_survey()
        found = await inventory.oldest(10, LATER)
        assert [(candidate.repository, candidate.digest) for candidate in found] == [(None, digest("i"))]


async def test_facts_that_are_told_twice_count_once(path: Path) -> None:
    tree = Tree().add("i", "ab", tag="1")
    async with running(path) as inventory:
        await inventory.begin_survey(LATER)
        blobs = [SeenBlob(digest("c"), SIZE, T0)] * 2
        await inventory.seen_blobs(blobs)
        await inventory.seen_layers([SeenLink(APP, digest("c"))] * 2)
        parts = SeenParts(APP, digest("k"), (digest("c"), digest("c")))
        await inventory.seen_parts([parts] * 2)
        for _ in range(2):
            await tree.show(inventory)
        await inventory.end_survey()
        assert await inventory.total() == Total(4, 4 * SIZE)
    assert rows(path, "SELECT count(*) FROM layer") == [(3,)]
    assert rows(path, "SELECT count(*) FROM part") == [(3,)]


@pytest.mark.parametrize("count", [1, 3, 1000])
async def test_much_is_removed_in_small_steps(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(survey, "SWEPT_AT_ONCE", count)
    monkeypatch.setattr(survey, "CHANGED_AT_ONCE", max(1, count // 2))
    tree = Tree()
    for number in range(30):
        tree.add(f"i{number}", [f"a{number}", "b"], tag=str(number))
    left = Tree().add("i0", ["a0", "b"], tag="0")
    async with running(None) as inventory:
        await surveyed(inventory, tree)
        assert await surveyed(inventory, left) == Surveyed(58, 29, 29, 29)
        assert await inventory.total() == Total(3, 3 * SIZE)
        assert len(await inventory.oldest(10, LATER)) == 1


async def test_the_history_of_all_tags_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "HISTORY_ROWS", 10)
    monkeypatch.setattr(survey, "SWEPT_AT_ONCE", 4)
    async with running(None) as inventory:
        for number in range(25):
            inventory.note_tag(APP, Tag(str(number)), digest("i"), T0 + number, "upstream")
        await surveyed(inventory, Tree())
        kept = [number for number in range(25) if await inventory.history(APP, Tag(str(number)))]
        assert kept == list(range(15, 25))


async def test_what_another_process_notes_meanwhile_stays(path: Path) -> None:
    async with running(path) as mine, running(path) as other:
        await surveyed(mine, Tree().add("i", "a", tag="1"))
        await mine.begin_survey(LATER)
        pull(other, "j", "b", LATER - 2000, tag="2")
        pull(other, "i", "a", LATER + 1, tag="1")
        assert await other.flush()
        removed = await mine.end_survey()
        assert (removed.blobs, removed.images) == (0, 0)
        assert sorted(await names(mine, "ij")) == ["i", "j"]


def _delete(path: Path) -> None:
    path.unlink()


def _damage(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [_delete, _damage])
async def test_a_survey_of_another_file_has_to_begin_again(path: Path, harm: Callable[[Path], None]) -> None:
    tree = Tree().add("i", "a")
    async with running(path) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        await tree.show(inventory)
        harm(path)
        pull(inventory, "j", "b")
        with pytest.raises(SurveyLost):
            await inventory.end_survey()
        assert not state(inventory)
        assert await names(inventory, "j") == ["j"]
        await surveyed(inventory, tree)
        assert state(inventory)


async def test_a_survey_that_did_not_begin_cannot_go_on(path: Path) -> None:
    async with running(path) as inventory:
        with pytest.raises(SurveyLost):
            await inventory.seen_blobs([SeenBlob(digest("a"), SIZE, T0)])
        await surveyed(inventory, Tree())
        with pytest.raises(SurveyLost):
            await inventory.end_survey()


async def test_a_survey_that_begins_again_forgets_what_the_first_has_seen() -> None:
    tree = Tree().add("i", "a")
    async with running(None) as inventory:
        await surveyed(inventory, tree)
        await inventory.begin_survey(LATER)
        await tree.show(inventory)
        assert (await surveyed(inventory, Tree())).images == 1


async def test_notes_that_are_lost_while_it_goes_on_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(None) as inventory:
        await inventory.begin_survey(LATER)
        monkeypatch.setattr("mirror.ledger.waiting.NOTES_LIMIT", 0)
        pull(inventory, "i", "a")
        with pytest.raises(SurveyLost):
            await inventory.end_survey()
        assert not state(inventory)


def test_marks_know_each_row_of_before_and_count_later_ones_as_seen() -> None:
    marks = Marks(T0, T0, {"blob": 20})
    for number in (1, 8, 9, 20, 21, 5000):
        marks.add(("blob", b""), number)
    assert [number for number in range(1, 30) if not marks.has("blob", number)] == [
        number for number in range(1, 20) if number not in (1, 8, 9)
    ]


async def test_what_a_survey_finds_is_not_evicted_before_it_knows_all_images() -> None:
    """Another registry has brought it: `a` and `b` belong to images of which only one was read so far."""
    tree = Tree().add("i", "ab", tag="1").add("j", "bc", tag="2")
    tree.blobs["loose"] = T0
    first = Tree().add("i", "ab")
    async with running(None) as inventory:
        await surveyed(inventory, Tree())
        await inventory.begin_survey(LATER)
        await inventory.seen_blobs([SeenBlob(digest(name), SIZE, T0) for name in tree.blobs])
        assert await inventory.oldest(10, LATER) == []
        assert await inventory.loose(10, LATER) == []
        first.blobs = {}
        await first.show(inventory)
        await inventory.used([])  # what waits to be written is written
        dropped = await inventory.drop_image(APP, digest("i"))
        assert dropped is not None
        assert {loose.digest for loose in dropped.blobs} == {digest("i"), digest("a"), digest("b")}
        for each in "iab":
            assert await inventory.drop_blob(digest(each), LATER) is None
        assert await inventory.drop_blob(digest("a")) is not None  # but by whoever wants it gone
        await tree.show(inventory)
        await inventory.end_survey()
        found = await inventory.loose(10, LATER)
        assert {loose.digest for loose in found} == {digest("i"), digest("loose")}


async def test_what_a_survey_that_did_not_end_has_found_is_loose_after_the_next(path: Path) -> None:
    tree = Tree()
    tree.blobs = {"a": T0, "b": T0}
    async with running(path) as inventory:
        inventory.note_tag(APP, Tag("1"), digest("b"), T0, "upstream")  # a name without data so far
        await inventory.begin_survey(LATER)
        await tree.show(inventory)
    async with running(path) as inventory:
        assert await inventory.loose(10, LATER) == []
        await surveyed(inventory, tree)
        assert {loose.digest for loose in await inventory.loose(10, LATER)} == {digest("a"), digest("b")}


async def test_what_comes_while_it_goes_on_stays_unless_it_is_to_go_in_any_case() -> None:
    """An image that was not read yet may name it."""
    async with running(None) as inventory:
        await surveyed(inventory, Tree())
        await inventory.begin_survey(LATER)
        inventory.note_blob(APP, digest("a"), SIZE, LATER)
        assert await inventory.drop_blob(digest("a"), LATER + 1) is None
        assert await inventory.drop_blob(digest("a")) is not None
        await inventory.end_survey()
