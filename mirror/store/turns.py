"""Who writes, and who deletes, what goes by one name: one after the other.

A writer that finds the data there writes none; whoever deletes has decided before. Both at once would leave a
link to what is not there.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag

Name = Digest | tuple[Repository, Tag]


class Turns:
    """NB: who has a digest's turn may take a tag's, never the other way round."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Name, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: Name) -> asyncio.Lock:
        """To be held while the decision is made and carried out. Kept for as long as anybody has it."""
        return self._locks.setdefault(name, asyncio.Lock())
