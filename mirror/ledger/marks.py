"""What a survey of the tree has come across so far: a bit for each row that was there when it began."""

from __future__ import annotations

from collections.abc import Mapping

GONE_LIMIT = 50_000  # some 10 MB; what goes beyond that may be left as a row until the next survey

Key = tuple[str | bytes, ...]  # table, and what tells a row of it from the others


class Marks:
    """`began`, and the `latest` use that was written then: in seconds since the epoch. `tops`: the last id
    of each table.

    Rows that came later have higher ids, and count as seen. What has gone meanwhile is not to come back
    because the tree was read before that.
    """

    def __init__(self, began: float, latest: float, tops: Mapping[str, int]) -> None:
        self.began = began
        self.latest = max(began, latest)
        self._tops = dict(tops)
        self._bits = {table: bytearray((top >> 3) + 1) for table, top in tops.items()}
        self._used = bytearray(len(self._bits["blob"]))
        self._gone: set[Key] = set()

    def add(self, key: Key, number: int) -> None:
        """This row is there."""
        self._gone.discard(key)
        table = str(key[0])
        if number <= self._tops[table]:
            self._bits[table][number >> 3] |= 1 << (number & 7)

    def use(self, blob: int) -> None:
        """What has this row of `blob` was given to a client just now."""
        if blob <= self._tops["blob"]:
            self._used[blob >> 3] |= 1 << (blob & 7)

    def is_used(self, blob: int) -> bool:
        """Whether it was, since the survey began. The clock cannot tell: it may have been set back."""
        return not self.is_new("blob", blob) and bool(self._used[blob >> 3] >> (blob & 7) & 1)

    def remove(self, key: Key) -> None:
        """This row is there no more."""
        if len(self._gone) < GONE_LIMIT:
            self._gone.add(key)

    def has(self, table: str, number: int) -> bool:
        """Whether the row of this id is there, or came later."""
        return self.is_new(table, number) or bool(self._bits[table][number >> 3] >> (number & 7) & 1)

    def is_new(self, table: str, number: int) -> bool:
        """Whether the row of this id came since the survey began, by a note or by the survey."""
        return number > self._tops[table]

    def is_gone(self, key: Key) -> bool:
        """Whether this has gone since the survey began, and not come back."""
        return key in self._gone
