"""What every driver must do. A driver's test module subclasses this and gives the `driver` fixture."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from mirror.drivers.base import WALK_BATCH, DriverError, Entry, PathNotFoundError, StorageDriver

MIB = 1 << 20
HOSTILE = [
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a b",
    "a\x00b",
    "a\n",
    "ä",
    "a\\b",
    "C:a",
    ".tmp-0",
    "a/.tmp-0/b",
    "a/" * 600 + "a",
]

Verb = Callable[[StorageDriver, str], Awaitable[object]]

READS: dict[str, Verb] = {
    "get": lambda driver, path: driver.get(path, 100),
    "open": lambda driver, path: driver.open(path),
    "stat": lambda driver, path: driver.stat(path),
    "list": lambda driver, path: driver.list(path),
    "delete": lambda driver, path: driver.delete(path),
}


async def content(driver: StorageDriver, path: str, start: int = 0, stop: int | None = None) -> bytes:
    """What `open` and `chunks` give."""
    file = await driver.open(path)
    try:
        chunks = [chunk async for chunk in file.chunks(start, file.size if stop is None else stop)]
    finally:
        await file.close()
    assert all(0 < len(chunk) <= MIB for chunk in chunks)
    return b"".join(chunks)


async def walk(driver: StorageDriver, path: str, leaves: Collection[str] = ()) -> list[Entry]:
    """All that a walk gives."""
    async with aclosing(driver.walk(path, leaves)) as batches:
        return [entry async for batch in batches for entry in batch]


async def fill(driver: StorageDriver, paths: Sequence[str]) -> None:
    """Make many empty files."""
    for start in range(0, len(paths), 100):
        await asyncio.gather(*(driver.put(path, b"") for path in paths[start : start + 100]))


async def find(driver: StorageDriver, path: str, patterns: list[str]) -> list[Entry]:
    """All that is found."""
    async with aclosing(driver.find(path, patterns)) as batches:
        return [entry async for batch in batches for entry in batch]


WALKS: list[Verb] = [
    walk,
    lambda driver, path: driver.prune(path, ""),
    lambda driver, path: find(driver, path, ["*"]),
    lambda driver, path: driver.remove([path], "", durable=True),
]


class DriverConformance:
    """The suite. Where object stores cannot be like folders (empty folders), nothing is asked."""

    often = 100  # times that is tried what may go wrong now and then
    many = 1205  # names in a folder
    walked = 2 * WALK_BATCH + 7  # files: two full batches, where they come so

    @pytest.fixture
    def driver(self) -> StorageDriver:
        """An empty driver, closed afterwards."""
        raise NotImplementedError

    async def test_what_was_put_is_there_and_a_later_put_replaces_it(self, driver: StorageDriver) -> None:
        for data in (b"first and longer", b"second", b""):
            await driver.put("a/b/file", data)
            assert await driver.get("a/b/file", 100) == data
            assert await content(driver, "a/b/file") == data
            info = await driver.stat("a/b/file")
            assert (info.size, info.is_folder) == (len(data), False)

    async def test_every_character_of_the_grammar_and_long_names_are_taken(
        self, driver: StorageDriver
    ) -> None:
        paths = ["-._", "..a", "a..", "...", "Az09._-/.hidden/" + "f" * 128, "_layers/sha512/" + "0" * 128]
        for path in paths:
            await driver.put(path, path.encode())
        for path in paths:
            assert await driver.get(path, 1000) == path.encode()
        assert await driver.list("") == sorted({path.split("/")[0] for path in paths})

    async def test_get_refuses_more_than_the_limit(self, driver: StorageDriver) -> None:
        await driver.put("file", b"12345")
        assert await driver.get("file", 5) == b"12345"
        with pytest.raises(DriverError, match=r"file: .*5 bytes") as caught:
            await driver.get("file", 4)
        assert not isinstance(caught.value, PathNotFoundError)

    @pytest.mark.parametrize("verb", READS.values(), ids=READS)
    @pytest.mark.parametrize("path", ["nothing", "folder/nothing", "folder/file/below"])
    async def test_what_is_not_there_is_not_found(self, driver: StorageDriver, verb: Verb, path: str) -> None:
        await driver.put("folder/file", b"x")
        with pytest.raises(PathNotFoundError) as caught:
            await verb(driver, path)
        assert caught.value.path == path
        assert caught.value.cause
        assert str(caught.value).startswith(f"{path}: ")

    async def test_a_folder_is_no_file_and_a_file_no_folder(self, driver: StorageDriver) -> None:
        await driver.put("folder/file", b"x")
        info = await driver.stat("folder")
        assert (info.size, info.is_folder) == (0, True)
        for verb, path in (("get", "folder"), ("open", "folder"), ("list", "folder/file"), ("get", "")):
            with pytest.raises(PathNotFoundError):
                await READS[verb](driver, path)

    @pytest.mark.parametrize("path", HOSTILE)
    async def test_what_is_no_path_is_refused_by_every_verb(
        self, driver: StorageDriver, path: str, tmp_path: Path
    ) -> None:
        await driver.put("a/b", b"x")
        source = tmp_path / "source"
        source.write_bytes(b"y")
        verbs: list[Verb] = [
            *READS.values(),
            lambda driver, path: driver.put(path, b"y"),
            lambda driver, path: driver.move_in(source, path),
            lambda driver, path: driver.move_out(path, source),
            *WALKS,
        ]
        for verb in verbs:
            with pytest.raises(DriverError):
                await verb(driver, path)
        assert await driver.list("") == ["a"]
        assert await driver.list("a") == ["b"]
        assert source.read_bytes() == b"y"

    async def test_listing_gives_files_and_folders_sorted(self, driver: StorageDriver) -> None:
        for path in ("f/b", "f/a/x", "f/a-b", "f/A", "f/10", "f/9", "f/a/y", "g"):
            await driver.put(path, b"x")
        assert await driver.list("f") == ["10", "9", "A", "a", "a-b", "b"]
        assert await driver.list("") == ["f", "g"]

    async def test_listing_gives_more_names_than_one_answer_of_a_server_has(
        self, driver: StorageDriver
    ) -> None:
        """One answer of S3 has a thousand at most; a server may give fewer."""
        names = [f"name{number:04}" for number in range(self.many)]
        await fill(driver, [f"many/{name}" for name in names])
        assert await driver.list("many") == names

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, 0),
            (0, 1),
            (5, 5),
            (MIB - 1, MIB + 1),
            (MIB, 2 * MIB),
            (1, 5 * MIB // 2),
            (5 * MIB // 2, 5 * MIB // 2),
        ],
    )
    async def test_a_range_of_an_open_file_is_read(
        self, driver: StorageDriver, start: int, stop: int
    ) -> None:
        data = os.urandom(5 * MIB // 2)
        await driver.put("file", data)
        assert await content(driver, "file", start, stop) == data[start:stop]

    async def test_reading_past_the_end_or_after_close_fails(self, driver: StorageDriver) -> None:
        await driver.put("file", b"12345")
        with pytest.raises(DriverError, match="file: "):
            await content(driver, "file", 3, 6)
        file = await driver.open("file")
        await file.close()
        await file.close()
        with pytest.raises(DriverError, match="file: "):
            await anext(file.chunks(0, 5))

    async def test_a_local_file_has_the_same_bytes(self, driver: StorageDriver) -> None:
        await driver.put("file", b"12345")
        file = await driver.open("file")
        if file.local is not None:
            assert os.pread(file.local.fileno(), 10, 1) == b"2345"
        await file.close()
        assert file.local is None or file.local.closed

    async def test_an_open_file_survives_a_write_and_a_delete(self, driver: StorageDriver) -> None:
        await driver.put("folder/file", b"of one moment")
        file = await driver.open("folder/file")
        await driver.put("folder/file", b"something longer than it was")
        await driver.delete("folder")
        assert file.size == 13
        assert [chunk async for chunk in file.chunks(0, 13)] == [b"of one moment"]
        await file.close()

    async def test_readers_see_the_old_or_the_new_file_while_it_is_written(
        self, driver: StorageDriver
    ) -> None:
        bodies = [bytes([letter]) * 300_000 for letter in b"ab"]
        await driver.put("file", bodies[0])
        done = False

        async def read() -> set[bytes]:
            seen = set()
            while not done:
                seen.add(await driver.get("file", MIB))
                seen.add(await content(driver, "file"))
                await asyncio.sleep(0)
            return seen

        readers = [asyncio.create_task(read()) for _ in range(3)]
        for turn in range(20):
            await driver.put("file", bodies[(turn + 1) % 2])
            await asyncio.sleep(0)
        done = True
        for seen in await asyncio.gather(*readers):
            assert seen <= set(bodies)

    async def test_of_many_writers_of_one_path_one_wins_whole(self, driver: StorageDriver) -> None:
        bodies = [bytes([number]) * 50_000 for number in range(12)]
        await asyncio.gather(*(driver.put("new/deep/file", body) for body in bodies))
        assert await driver.get("new/deep/file", MIB) in bodies
        assert await driver.list("new/deep") == ["file"]

    async def test_many_writers_make_the_same_folders_at_once(self, driver: StorageDriver) -> None:
        paths = [f"new/deep/{number % 3}/{number}" for number in range(24)]
        await asyncio.gather(*(driver.put(path, path.encode()) for path in paths))
        for path in paths:
            assert await driver.get(path, 100) == path.encode()

    async def test_a_put_while_its_folder_is_deleted_succeeds_in_the_end(self, driver: StorageDriver) -> None:
        for _ in range(self.often // 5):
            await driver.put("folder/old", b"x")
            await asyncio.gather(driver.put("folder/new", b"y"), driver.delete("folder"))
            await driver.put("folder/new", b"z")
            assert await driver.get("folder/new", 1) == b"z"

    async def test_move_in_takes_the_file(self, driver: StorageDriver, tmp_path: Path) -> None:
        data = os.urandom(3 * MIB)
        for body in (data, b"replaced"):
            source = tmp_path / "source"
            source.write_bytes(body)
            await driver.move_in(source, "a/b/file")
            assert not source.exists()
            assert await content(driver, "a/b/file") == body
        assert await driver.list("a/b") == ["file"]

    async def test_move_in_of_nothing_fails_and_changes_nothing(
        self, driver: StorageDriver, tmp_path: Path
    ) -> None:
        await driver.put("a/file", b"old")
        with pytest.raises(PathNotFoundError, match="a/file: "):
            await driver.move_in(tmp_path / "nothing", "a/file")
        assert await driver.get("a/file", 3) == b"old"
        assert await driver.list("a") == ["file"]

    async def test_delete_takes_a_file_or_a_whole_tree(self, driver: StorageDriver) -> None:
        for path in ("a/b/1", "a/b/2", "a/b/c/3", "a/bb", "z"):
            await driver.put(path, b"x")
        await driver.delete("a/b/1")
        assert await driver.list("a/b") == ["2", "c"]
        await driver.delete("a/b")
        assert await driver.list("a") == ["bb"]
        with pytest.raises(PathNotFoundError):
            await driver.get("a/b/2", 1)
        await driver.put("a/b", b"a file now")
        assert await driver.get("a/b", 100) == b"a file now"

    async def test_the_root_cannot_be_deleted(self, driver: StorageDriver) -> None:
        await driver.put("file", b"x")
        with pytest.raises(DriverError):
            await driver.delete("")
        assert await driver.list("") == ["file"]

    async def test_walking_gives_every_file_below_with_its_size_and_time(self, driver: StorageDriver) -> None:
        files = {f"top/{name}": os.urandom(size) for size, name in enumerate(("a", "b/c", "b/d/e/f", "..g"))}
        for path, data in {**files, "other/file": b"x", "top-not": b"x"}.items():
            await driver.put(path, data)
        entries = await walk(driver, "top")
        assert {entry.path: entry.size for entry in entries} == {path: len(files[path]) for path in files}
        for entry in entries:
            info = await driver.stat(entry.path)
            assert (entry.modified, entry.is_folder, entry.linked) == (info.modified, False, False)
        assert {entry.path for entry in await walk(driver, "")} == {*files, "other/file", "top-not"}

    async def test_a_file_was_modified_when_it_was_written(self, driver: StorageDriver) -> None:
        before = time.time()
        await driver.put("file", b"x")
        # A file system's clock lags by the time between two ticks.
        assert before - 1 < (await driver.stat("file")).modified < time.time() + 1

    @pytest.mark.parametrize("path", ["nothing", "folder/nothing", "folder/file", "folder/file/below"])
    async def test_walking_what_is_no_folder_gives_nothing(self, driver: StorageDriver, path: str) -> None:
        await driver.put("folder/file", b"x")
        assert await walk(driver, path) == []

    async def test_walking_comes_in_batches_and_can_be_left(self, driver: StorageDriver) -> None:
        number = self.walked
        await fill(driver, [f"many/{index % 7}/{index}" for index in range(number)])
        async with aclosing(driver.walk("many")) as batches:
            sizes = [len(batch) async for batch in batches]
        assert sum(sizes) == number
        assert max(sizes) <= WALK_BATCH
        async with aclosing(driver.walk("many")) as batches:
            async for _ in batches:
                break
        assert await driver.get("many/0/0", 1) == b""

    async def test_walking_stops_at_leaves_and_gives_them(self, driver: StorageDriver) -> None:
        for path in ("top/a/_leaf/x/y", "top/_leaf/z", "top/b/_leaf", "top/b/c", "_leaf/other"):
            await driver.put(path, b"")
        found = {entry.path: entry.is_folder for entry in await walk(driver, "top", ["_leaf"])}
        assert found == {"top/a/_leaf": True, "top/_leaf": True, "top/b/_leaf": False, "top/b/c": False}

    @pytest.mark.parametrize(
        ("patterns", "found"),
        [
            (["*/data"], {"a/data", "b/data"}),
            (["*"], {"data"}),
            (["a/*/*"], {"a/b/data", "a/b/other"}),
            (["a/data", "a/b/other", "none/data"], {"a/data", "a/b/other"}),
            (["**/_one/y/link", "**/_two/_one/*/link"], {"r/s/_one/y/link", "r/_two/_one/x/link"}),
            (["**/s/*/x/link"], {"r/s/_one/x/link"}),
            (
                ["**/_one/x/link", "**/_two/link"],
                {"_one/x/link", "r/_one/x/link", "r/s/_one/x/link", "r/_two/link"},
            ),
            (["**/data"], {"data", "a/data", "b/data", "a/b/data"}),
            (["*/data", "*/*/data"], {"a/data", "b/data", "a/b/data"}),
            (["data/data", "*/*/*/*/*/*"], set()),
        ],
    )
    async def test_what_is_looked_for_is_found_and_nothing_else(
        self, driver: StorageDriver, patterns: list[str], found: set[str]
    ) -> None:
        below = ("data", "a/data", "a/b/data", "a/b/other", "b/data", "c/data/file")
        links = ("_one/x/link", "r/_one/x/link", "r/s/_one/x/link", "r/s/_one/y/link", "r/_two/link")
        hidden = ("r/_two/_one/x/link", "_one/_two/link")
        for path in (*below, *links, *hidden):
            await driver.put(f"top/{path}", path.encode())
        await driver.put("data", b"")
        entries = await find(driver, "top", patterns)
        paths = [entry.path.removeprefix("top/") for entry in entries]
        assert set(paths) == found
        assert len(paths) == len(found)
        for entry in entries:
            info = await driver.stat(entry.path)
            assert (entry.size, entry.modified, entry.is_folder) == (info.size, info.modified, False)

    async def test_looking_in_what_is_no_folder_finds_nothing(self, driver: StorageDriver) -> None:
        await driver.put("folder/file", b"x")
        for path in ("nothing", "folder/file", "folder/file/below"):
            assert await find(driver, path, ["*", "*/*", "file"]) == []
        assert [entry.path for entry in await find(driver, "", ["folder/file"])] == ["folder/file"]

    @pytest.mark.parametrize("pattern", ["", "/a", "a/**/b", "**", "**/*", "**/**", "a*", "../a", "a//b"])
    async def test_what_is_no_pattern_is_refused(self, driver: StorageDriver, pattern: str) -> None:
        with pytest.raises(ValueError, match="pattern"):
            await find(driver, "", [pattern])

    async def test_finding_comes_in_batches(self, driver: StorageDriver) -> None:
        number = self.walked
        await fill(driver, [f"many/{index}/data" for index in range(number)])
        async with aclosing(driver.find("many", ["*/data"])) as batches:
            sizes = [len(batch) async for batch in batches]
        assert sum(sizes) == number
        assert max(sizes) <= WALK_BATCH

    async def test_many_files_are_read_until_they_have_so_many_bytes_together(
        self, driver: StorageDriver
    ) -> None:
        for index in range(5):
            await driver.put(f"f/{index}", b"x" * 10)
        paths = [f"f/{index}" for index in range(5)]
        everything = [b"x" * 10] * 5
        read: list[bytes | DriverError] = []
        while len(read) < 5:  # a busy machine may give fewer at a time
            some = await driver.get_many(paths[len(read) :], 10, 1000)
            assert some
            read += some
        assert read == everything
        assert len(await driver.get_many(paths, 10, 15)) <= 2
        assert await driver.get_many(paths, 10, 1) == [b"x" * 10]
        assert await driver.get_many([], 10, 1) == []

    async def test_what_cannot_be_read_among_many_is_an_error_in_its_place(
        self, driver: StorageDriver
    ) -> None:
        await driver.put("f/a", b"x")
        await driver.put("f/long", b"x" * 11)
        for path, kind in (("f/none", PathNotFoundError), ("f", PathNotFoundError), ("f/long", DriverError)):
            (error,) = await driver.get_many([path], 10, 100)
            assert type(error) is kind
            assert await driver.get_many(["f/a"], 10, 100) == [b"x"]

    async def test_a_removal_takes_files_and_trees_with_the_folders_that_are_empty_then(
        self, driver: StorageDriver
    ) -> None:
        for path in ("keep/a/b/one", "keep/a/b/two", "keep/t/x/file", "keep/t/y/file", "keep/s/file"):
            await driver.put(path, b"x")
        found = await driver.remove(["keep/a/b/one", "keep/none/file", "keep/t"], "keep", durable=True)
        assert found == [True, False, True]
        assert await driver.list("keep") == ["a", "s"]
        assert await driver.remove(["keep/a/b/two", "keep/s/file"], "keep", durable=False) == [True, True]
        await driver.put("keep/file", b"x")
        assert await driver.list("keep") == ["file"]

    async def test_a_removal_takes_nothing_that_is_not_below_what_is_to_stay(
        self, driver: StorageDriver
    ) -> None:
        await driver.put("keep/file", b"x")
        await driver.put("other", b"x")
        for path in ("keep", "other", "", "keep/../other"):
            with pytest.raises(DriverError):
                await driver.remove(["keep/file", path], "keep", durable=True)
        assert await driver.get("keep/file", 1) == await driver.get("other", 1) == b"x"

    async def test_a_file_deleted_or_written_while_walking_breaks_nothing(
        self, driver: StorageDriver
    ) -> None:
        stays = {f"tree/{index}/stays" for index in range(self.often)}
        for path in stays:
            await driver.put(path, b"")

        async def change() -> None:
            for index in range(self.often):
                await driver.put(f"tree/{index}/comes", b"")
                await driver.delete(f"tree/{index}/comes")
                await driver.put(f"tree/new{index}/comes", b"")
                await driver.delete(f"tree/new{index}")

        changes = asyncio.create_task(change())
        walks = 0
        while not changes.done() or not walks:
            assert {entry.path for entry in await walk(driver, "tree")} >= stays
            walks += 1
            await asyncio.sleep(0)
        await changes

    async def test_pruning_takes_empty_folders_up_to_the_one_to_keep(self, driver: StorageDriver) -> None:
        await driver.put("keep/a/b/c/file", b"x")
        await driver.prune("keep/a/b/c", "keep")
        assert await driver.get("keep/a/b/c/file", 1) == b"x"
        await driver.put("keep/a/other", b"x")
        await driver.delete("keep/a/b/c/file")
        await driver.prune("keep/a/b/c", "keep")
        await driver.prune("keep/a/b/c", "keep")
        assert await driver.list("keep/a") == ["other"]
        await driver.delete("keep/a/other")
        await driver.prune("keep/a", "keep")
        assert await walk(driver, "keep/a") == []

    @pytest.mark.parametrize(
        ("path", "keep"), [("a", "a"), ("a", "a/b"), ("a/b", "c"), ("ab", "a"), ("", ""), ("a/..", "a")]
    )
    async def test_pruning_is_refused_where_the_folder_is_not_below_the_one_to_keep(
        self, driver: StorageDriver, path: str, keep: str
    ) -> None:
        with pytest.raises(DriverError):
            await driver.prune(path, keep)

    async def test_writes_into_folders_that_are_pruned_succeed(self, driver: StorageDriver) -> None:
        """Three passes over five folders at the same time: more than a deletion makes."""
        leaf = "keep/a/b/c/d/e"
        for turn in range(self.often):
            prunes = [driver.prune(leaf, "keep") for _ in range(3)]
            await asyncio.gather(*prunes[:1], driver.put(f"{leaf}/{turn}", b"x"), *prunes[1:])
            assert await driver.get(f"{leaf}/{turn}", 1) == b"x"
            await driver.delete(f"{leaf}/{turn}")

    async def test_move_out_gives_the_file_away(self, driver: StorageDriver, tmp_path: Path) -> None:
        data = os.urandom(2 * MIB + 1)
        target = tmp_path / "new" / "folder" / "target"
        for body in (data, b"replaced"):
            await driver.put("a/file", body)
            await driver.move_out("a/file", target)
            assert target.read_bytes() == body
            assert [path.name for path in target.parent.iterdir()] == ["target"]
            with pytest.raises(PathNotFoundError):
                await driver.stat("a/file")

    async def test_move_out_of_what_is_no_file_changes_nothing(
        self, driver: StorageDriver, tmp_path: Path
    ) -> None:
        await driver.put("folder/file", b"x")
        (tmp_path / "target").write_bytes(b"old")
        for path in ("folder", "nothing", "folder/file/below"):
            with pytest.raises(PathNotFoundError):
                await driver.move_out(path, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"old"
        assert await driver.get("folder/file", 1) == b"x"

    async def test_a_sweep_takes_nothing_that_can_be_read(self, driver: StorageDriver) -> None:
        await driver.put("a/.tmp", b"x")
        await driver.put("a/b/tmp-1", b"x")
        assert await driver.sweep(time.time() + 1000) == 0
        assert {entry.path for entry in await walk(driver, "")} == {"a/.tmp", "a/b/tmp-1"}
