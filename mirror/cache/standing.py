"""What is known of a tag before anybody is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mirror.cache.freshness import UNKNOWN, Age, Policy, names
from mirror.cache.tags import Tags, Word
from mirror.oci.descriptor import Descriptor
from mirror.oci.names import Repository, Tag
from mirror.registry import Condition


@dataclass(frozen=True, slots=True)
class Standing:
    """The upstream's last word, and how much of its time is left."""

    word: Word | None
    age: Age
    fresh: float  # seconds that a word is fresh now
    rule: str  # the rule that says so
    refusal_left: float  # seconds that a refusal is still believed; 0 where there is none
    checked_ago: float | None  # seconds; None where nobody knows

    @property
    def is_refused(self) -> bool:
        """Whether the last word was a refusal, however old."""
        return self.word is not None and self.word.digest is None

    @property
    def points(self) -> Descriptor | None:
        """Where the tag points, when no one need be asked for that."""
        return self.word.descriptor if self.word is not None and self.age.is_fresh else None


class Standings:
    """`clock` is the wall clock: what is said by it holds across restarts."""

    def __init__(self, tags: Tags, policy: Policy, clock: Callable[[], float] = time.time) -> None:
        self._tags = tags
        self._policy = policy
        self._clock = clock

    async def of(self, repository: Repository, tag: Tag, condition: Condition) -> Standing:
        """A tag's standing; asks nobody."""
        return self._standing(await self._tags.word(repository, tag), repository, tag, condition)

    def known(self, repository: Repository, tag: Tag, condition: Condition) -> Standing:
        """The same, as far as it is in memory."""
        return self._standing(self._tags.known(repository, tag), repository, tag, condition)

    def _standing(
        self, word: Word | None, repository: Repository, tag: Tag, condition: Condition
    ) -> Standing:
        fresh, rule = self._policy.fresh(names(repository, tag, condition.namespace))
        if word is None:
            return Standing(None, UNKNOWN, fresh, rule, 0.0, None)
        now = self._clock()
        ago = max(0.0, now - word.checked)
        if word.digest is None:
            return Standing(word, UNKNOWN, fresh, rule, self._policy.refusal_left(word.checked, now), ago)
        age = self._policy.age(word.checked, now, fresh, condition.stretch)
        return Standing(word, age, fresh, rule, 0.0, ago)
