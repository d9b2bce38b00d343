"""What a collection found, deleted: together what is of one kind, one kind after the other.

Each is deleted in the turn of whoever writes the same, and only if it is garbage still: what is being filled,
and what was used or linked since the collection began, stays. (A file that was there is not written again, so
that the tree does not show it.) Memory and inventory know afterwards what went; of what may have gone, as its
deletion got no answer, memory holds nothing: who wants it next finds out.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack

from mirror.cache.memory import Memory
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.store.errors import StoreError
from mirror.store.garbage import Garbage, Kind
from mirror.store.tree import Tree
from mirror.store.turns import Name, Turns

FILES = {Kind.IMAGE, Kind.BROKEN, Kind.LAYER, Kind.BLOB}  # each is one file: many can go with one request
# Files that go together. A bucket would take 1,000 in one request; but all their turns are held while each is
# looked at again, within `cache.requests`, and whoever writes one of them waits for that: a second at most,
# at 50 requests a second.
AT_ONCE = 25

Outcome = bool | StoreError  # whether it went; or why it is still there


class Dropper:
    """`busy`: digests that are being filled. `turns`: those of who writes into the same tree."""

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        turns: Turns,
        busy: Callable[[], Collection[Digest]],
        clock: Callable[[], float],
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._turns = turns
        self._busy = busy
        self._clock = clock

    async def drop(
        self, found: Iterable[Garbage], since: Callable[[], float]
    ) -> AsyncGenerator[tuple[Garbage, Outcome], None]:
        """Delete these in the order of their kinds; what became of each.

        What bears a later time than `since` may have been used since the collection began. It is asked each
        time: the clock may be put back meanwhile, and uses bear its times.
        """
        for kind, some in itertools.groupby(found, lambda garbage: garbage.kind):
            for together in self._apart(kind, tuple(some)):
                for each in zip(together, await self._together(together, since), strict=True):
                    yield each

    def _apart(self, kind: Kind, found: Sequence[Garbage]) -> Iterable[Sequence[Garbage]]:
        """What goes together: files that nobody writes. What somebody writes holds up nothing but itself."""
        if kind not in FILES:
            yield from ([garbage] for garbage in found)
            return
        for start in range(0, len(found), AT_ONCE):
            free: list[Garbage] = []
            taken: list[Garbage] = []
            for garbage in found[start : start + AT_ONCE]:
                (taken if self._is_taken(garbage) else free).append(garbage)
            if free:
                yield free
            yield from ([garbage] for garbage in taken)

    async def _together(self, found: Sequence[Garbage], since: Callable[[], float]) -> Sequence[Outcome]:
        """NB: one, or such as nobody has the turn of: then all turns are had without a wait."""
        names = dict.fromkeys(name for garbage in found if (name := _name(garbage)) is not None)
        async with AsyncExitStack() as turns:
            for name in names:
                await turns.enter_async_context(self._turns.of(name))
            doomed = [garbage for garbage in found if not await self._stays(garbage, since)]
            outcomes = dict(zip(doomed, await self._drop_each(doomed), strict=True))
        return [outcomes.get(garbage, False) for garbage in found]

    async def _drop_each(self, doomed: Sequence[Garbage]) -> Sequence[Outcome]:
        try:
            outcomes = await self._tree.drop_each(doomed)
        except BaseException:
            self._inventory.doubt("a collection was broken off")
            for garbage in doomed:
                self._forget(garbage)
            raise
        for garbage, outcome in zip(doomed, outcomes, strict=True):
            if outcome is not False:
                self._forget(garbage)
            if outcome is True:
                self._note_gone(garbage)
        return outcomes

    async def _stays(self, garbage: Garbage, since: Callable[[], float]) -> bool:
        """Whether somebody has wanted it since. In its turn."""
        digest = garbage.digest
        if digest is None:
            return False
        if garbage.kind is Kind.BLOB and digest in self._busy():
            return True
        return await self._inventory.is_used_since(digest, since())

    def _is_taken(self, garbage: Garbage) -> bool:
        name = _name(garbage)
        return name is not None and self._turns.of(name).locked()

    def _forget(self, garbage: Garbage) -> None:
        """Memory holds it for kept no longer, and nothing that was answered of it is repeated."""
        match garbage:
            case Garbage(kind=Kind.BLOB, digest=Digest() as digest):
                self._memory.forget_blob(digest)
            case Garbage(repository=Repository() as repository, digest=Digest() as digest, tag=None):
                if _is_layer(garbage):
                    self._memory.forget_link(repository, digest)
                else:
                    self._memory.forget_image(repository, digest)
            case Garbage(kind=Kind.TAG, repository=Repository() as repository) if garbage.tag is not None:
                self._memory.forget_tag(repository, garbage.tag)
            case _:
                pass

    def _note_gone(self, garbage: Garbage) -> None:
        """Tell the inventory that it went."""
        match garbage:
            case Garbage(kind=Kind.BLOB, digest=Digest() as digest):
                self._inventory.note_blob_gone(digest)
            case Garbage(repository=Repository() as repository, digest=Digest() as digest, tag=None):
                if _is_layer(garbage):
                    self._inventory.note_layer_gone(repository, digest)
                else:
                    self._inventory.note_image_gone(repository, digest)
            case Garbage(kind=Kind.TAG, repository=Repository() as repository) if garbage.tag is not None:
                self._inventory.note_tag_gone(repository, garbage.tag, self._clock())
            case _:
                pass


def _is_layer(garbage: Garbage) -> bool:
    return garbage.kind is Kind.LAYER or "/_layers/" in garbage.path


def _name(garbage: Garbage) -> Name | None:
    """By which whoever writes the same takes his turn."""
    if garbage.repository is not None and garbage.tag is not None:
        return garbage.repository, garbage.tag
    return garbage.digest
