"""Lists of repositories and tags: order, pages, and whatever else lies about in the tree."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.drivers.base import DriverError, StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import Unavailable
from mirror.store import layout, listing
from mirror.store.content import ContentStore
from tests.store.faulty import FaultyDriver
from tests.store.test_content import MANIFEST, REPOSITORY, TAG

LINK = layout.link_bytes(Digest.of(b"x"))


async def make(driver: StorageDriver, *names: str) -> None:
    """Repositories that have one blob each."""
    for name in names:
        await driver.put(layout.layer_link(Repository.parse(name), Digest.of(b"x")), LINK)


async def all_pages(store: ContentStore, n: int, last: str = "") -> list[str]:
    """The names of all pages of `n`."""
    found: list[str] = []
    while True:
        page = await store.repositories(n, last)
        assert len(page.names) <= n
        found += page.names
        if not page.more:
            return found
        last = page.names[-1]


async def test_repositories_come_in_the_order_of_paths(driver: StorageDriver, store: ContentStore) -> None:
    """`/` sorts before everything, also before `-`; a repository may lie in another one."""
    names = ["a", "a/b", "a/b/c", "a-b", "a.b", "a0", "library/foo", "library/foo-bar", "z"]
    await make(driver, *reversed(names))
    await store.put_manifest(Repository("library/only-manifests"), MANIFEST)
    names.insert(-1, "library/only-manifests")
    page = await store.repositories(None, "")
    assert (list(page.names), page.more) == (names, False)
    for n in (1, 2, 3, len(names), 100):
        assert await all_pages(store, n) == names


async def test_an_empty_store_has_no_repositories(store: ContentStore) -> None:
    page = await store.repositories(None, "")
    assert (page.names, page.more) == ((), False)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("a/b", ["a-b", "b/c"]),
        ("a/bb", ["a-b", "b/c"]),
        ("a/a/z", ["a/b", "a-b", "b/c"]),
        ("b", ["b/c"]),
        ("b/c", []),
        ("UPPER?", ["a/b", "a-b", "b/c"]),
        ("~", []),
        ("/", ["a/b", "a-b", "b/c"]),
    ],
)
async def test_a_page_begins_after_any_text(
    last: str, expected: list[str], driver: StorageDriver, store: ContentStore
) -> None:
    await make(driver, "a/b", "a-b", "b/c")
    assert list((await store.repositories(None, last)).names) == expected


async def test_a_page_of_none_has_nothing_and_no_next_one(driver: StorageDriver, store: ContentStore) -> None:
    await make(driver, "a")
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    for page in (await store.repositories(0, ""), await store.tags(REPOSITORY, 0, "")):
        assert (page.names, page.more) == ((), False)


name = st.lists(st.sampled_from(["a", "b", "a-b", "a.b", "a_b", "a0", "0"]), min_size=1, max_size=3).map(
    "/".join
)


@given(names=st.sets(name, max_size=12), n=st.integers(1, 5), last=st.one_of(st.just(""), name))
@settings(max_examples=100, deadline=None)
def test_pages_of_any_size_from_anywhere_give_every_repository_once(
    names: set[str], n: int, last: str
) -> None:
    async def check() -> None:
        driver = InMemoryDriver()
        await make(driver, *names)
        after = tuple(last.split("/")) if last else ()
        paths = sorted(tuple(each.split("/")) for each in names)
        assert await all_pages(ContentStore(driver), n, last) == [
            "/".join(path) for path in paths if path > after
        ]

    asyncio.run(check())


async def test_a_page_looks_at_no_more_folders_than_it_needs() -> None:
    driver = FaultyDriver(InMemoryDriver())
    await make(driver, *(f"library/r{number:03}" for number in range(200)))
    driver.calls = 0
    page = await ContentStore(driver).repositories(3, "library/r150")
    assert page.names == ("library/r151", "library/r152", "library/r153")
    assert page.more
    assert driver.calls <= 7  # the two folders above, r150 to r154


async def test_pages_and_walks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = InMemoryDriver()
    await make(driver, *(f"r{number}" for number in range(9)))
    store = ContentStore(driver)
    monkeypatch.setattr(listing, "PAGE_LIMIT", 4)
    for n in (None, 1000):
        page = await store.repositories(n, "")
        assert (len(page.names), page.more) == (4, True)
    monkeypatch.setattr(listing, "VISIT_LIMIT", 3)
    assert len((await store.repositories(None, "")).names) == 2


async def test_what_else_lies_about_is_passed_over(tmp_path: Path) -> None:
    """As left by mkfs, an editor, an unfinished upload, or somebody who moved a folder away."""
    root = tmp_path / "root"
    driver = FilesystemDriver(root, 2)
    store = ContentStore(driver)
    await make(driver, "library/foo")
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    repositories = root / layout.REPOSITORIES
    tags = root / layout.tags(REPOSITORY)
    for folder in (
        root / "lost+found",
        repositories / "lost+found",
        repositories / "UPPER/_layers",
        repositories / "-bad/_layers",
        repositories / "_layers",
        repositories / "empty/folder",
        repositories / "uploading/_uploads/1",
        tags / "-bad",
        tags / "empty",
        tags / ("x" * 129),
    ):
        folder.mkdir(parents=True)
    for file in (
        root / "scheduler-state.json",
        repositories / "stray",
        repositories / "library/stray",
        tags / "file",
    ):
        file.write_bytes(b"{}")
    (repositories / "dangling").symlink_to(tmp_path / "nothing")
    (repositories / "library/itself").symlink_to(repositories / "library/itself")
    (tags / "dangling").symlink_to(tmp_path / "nothing")
    assert (await store.repositories(None, "")).names == ("library/app", "library/foo")
    assert (await store.tags(REPOSITORY, None, "")).names == ("1.0",)
    await driver.close()


async def test_tags_that_point_to_nothing_are_not_listed(driver: StorageDriver, store: ContentStore) -> None:
    """As a crash between a tag's history and its current link leaves it."""
    for name in ("a", "b", "c", "d"):
        await store.put_manifest(REPOSITORY, MANIFEST, Tag(name))
    await driver.put(layout.tag_current_link(REPOSITORY, Tag("b")), b"")
    await driver.delete(layout.tag_current_link(REPOSITORY, Tag("c")))
    page = await store.tags(REPOSITORY, 1, "")
    assert (page.names, page.more) == (("a",), True)
    page = await store.tags(REPOSITORY, 1, "a")
    assert (page.names, page.more) == (("d",), False)


async def test_a_failure_in_a_batch_is_raised_after_the_batch() -> None:
    driver = FaultyDriver(InMemoryDriver())
    store = ContentStore(driver)
    for number in range(5):
        await store.put_manifest(REPOSITORY, MANIFEST, Tag(f"t{number}"))
    faulty = FaultyDriver(driver, fail_at=3)
    with pytest.raises(Unavailable) as caught:
        await ContentStore(faulty).tags(REPOSITORY, None, "")
    assert isinstance(caught.value.__cause__, DriverError)
    assert faulty.calls == 1 + 5 + 1  # the folder, each tag, and the size of what could not be read
