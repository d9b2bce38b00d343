"""What is remembered in memory, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cache.bydigest import ByDigest, Key
from mirror.cache.eviction import Limits
from mirror.cache.memory import Memory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Unavailable
from mirror.store import layout
from tests.cache.kit import A, B
from tests.cache.test_keeper import shop
from tests.cache.test_rights import LAYER, away, mirror

REPOSITORIES = tuple(Repository(f"library/{name}") for name in "abc")
DIGESTS = tuple(Digest.of(bytes([n])) for n in range(4))
ROOM = 5

keys = st.tuples(st.sampled_from(REPOSITORIES), st.sampled_from(DIGESTS))
verbs = st.sampled_from(("set", "get", "pop", "forget", "clear"))
steps = st.tuples(verbs, keys, st.integers(1, ROOM))


@given(st.lists(steps, max_size=40), st.booleans())
def test_a_table_forgets_a_digest_of_all_repositories_and_nothing_else(
    walk: list[tuple[str, Key, int]], is_sized: bool
) -> None:
    table: ByDigest[int] = ByDigest(ROOM, (lambda size: size) if is_sized else None)
    for verb, key, size in walk:
        before = dict(table.items())
        match verb:
            case "set":
                table[key] = size
            case "get":
                table.get(key)
            case "pop":
                table.pop(key, None)
            case "forget":
                table.forget(key[1])
                assert dict(table.items()) == {each: before[each] for each in before if each[1] != key[1]}
            case _:
                table.clear()
        assert table._repositories == by_digest(table), "no more is held than is in the table"


def by_digest(table: ByDigest[int]) -> dict[Digest, set[Repository]]:
    found: dict[Digest, set[Repository]] = {}
    for repository, digest in table:
        found.setdefault(digest, set()).add(repository)
    return found


class Counted(ByDigest[bool]):
    """One that nobody may look through."""

    def __iter__(self) -> Iterator[Key]:
        raise AssertionError("it looks at all that is remembered")


def test_forgetting_a_blob_takes_no_look_at_all_that_is_remembered() -> None:
    memory = Memory(100, 10.0)
    memory._kept = Counted(100)
    for digest in DIGESTS:
        memory.kept(A, digest)
        memory.kept(B, digest)
    memory.forget_blob(DIGESTS[0])
    assert [memory.is_kept(A, digest) for digest in DIGESTS] == [False, True, True, True]
    assert [memory.is_kept(B, digest) for digest in DIGESTS] == [False, True, True, True]


async def test_a_blob_that_was_discarded_is_known_to_be_gone(tmp_path: Path) -> None:
    """Else its image would be taken for whole for a minute."""
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        image = await at.image(A, "1", LAYER)
        await registry.manifest(A, image)
        (tmp_path / layout.blob_data(Digest.of(LAYER))).write_bytes(LAYER[1:])
        with pytest.raises(Unavailable):
            await registry.blob(A, Digest.of(LAYER))
        with pytest.raises(Unavailable, match="1 of 2 parts"):
            await registry.manifest(A, image)
