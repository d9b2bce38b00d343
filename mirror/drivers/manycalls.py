"""The same request for many paths, some at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

AT_ONCE = 16  # requests

T = TypeVar("T")


async def of_each(call: Callable[[str], Awaitable[T]], items: Sequence[str]) -> list[T]:
    """What `call` gives for each; after all have ended the first failure is raised."""
    outcomes: list[T | BaseException] = []
    for start in range(0, len(items), AT_ONCE):
        some = [call(item) for item in items[start : start + AT_ONCE]]
        outcomes += await asyncio.gather(*some, return_exceptions=True)
    found: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found
