"""How long an upstream's word about a tag is believed. Decides only; time comes in as an argument.

Three ages matter. While a word is *fresh* nobody is asked. When it is *due* the upstream is asked, and what
is kept may still be given if asking fails or takes too long. When it is *expired* what is kept is given no
more. A refusal (the tag is gone, or not for us) is believed for a time of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirror.oci.names import Repository, Tag

SKEW = (
    60.0  # seconds that a word may lie ahead of the clock; beyond, a clock was wrong, and its age is unknown
)
STRETCH_LIMIT = 6 * 3600.0  # seconds: however scarce a quota, a tag is asked for once in a quota's window


@dataclass(frozen=True, slots=True)
class Rule:
    """`fresh` seconds for what `match` fits: `*` stands for anything, also for `/` and `:`."""

    match: str
    fresh: float

    def fits(self, name: str) -> bool:
        """Whether this is for `repository:tag`. Linear, whatever clients ask for."""
        first, *others = self.match.split("*")
        if not others:
            return name == first
        last = others.pop()
        if not name.startswith(first):
            return False
        at = len(first)
        for part in others:
            found = name.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return len(name) - at >= len(last) and name.endswith(last)


def names(repository: Repository, tag: Tag, namespace: str) -> tuple[str, ...]:
    """All that a tag goes by in rules: as it is kept, and as people type it, with the upstream in front."""
    kept = f"{repository}:{tag}"
    typed = f"{namespace}/{kept.removeprefix(namespace.replace(':', '_') + '/')}"
    return (kept,) if typed == kept else (kept, typed)


@dataclass(frozen=True, slots=True)
class Age:
    """What is left of a word's times, in seconds; negative: since when they are over.

    `stale_left` is None where nobody knows when the upstream was last asked.
    """

    fresh_left: float
    stale_left: float | None

    @property
    def is_fresh(self) -> bool:
        """Nobody need be asked."""
        return self.fresh_left > 0

    @property
    def may_stand_in(self) -> bool:
        """What is kept may be given while the upstream cannot be asked."""
        return self.stale_left is None or self.stale_left > 0


UNKNOWN = Age(0.0, None)


@dataclass(frozen=True, slots=True)
class Policy:
    """`proxy.freshness`, `proxy.stale` and `proxy.negative`, in seconds. The first rule that fits counts."""

    default: float = 60.0
    rules: tuple[Rule, ...] = ()
    stale: float = 720 * 3600.0
    negative: float = 10.0

    def fresh(self, names: Sequence[str]) -> tuple[float, str]:
        """How long a tag is fresh, and the rule that says so; `names` are all that the tag goes by."""
        for rule in self.rules:
            if any(rule.fits(name) for name in names):
                return rule.fresh, rule.match
        return self.default, "default"

    def age(self, checked: float, now: float, fresh: float, stretch: float = 1.0) -> Age:
        """Of a word that the upstream gave at `checked`, and that is fresh for `fresh` times `stretch`."""
        passed = now - checked
        if passed < -SKEW:
            return UNKNOWN
        lasting = max(fresh, min(fresh * stretch, STRETCH_LIMIT))
        return Age(lasting - max(passed, 0.0), self.stale - max(passed, 0.0))

    def refusal_left(self, checked: float, now: float) -> float:
        """Seconds that a refusal is still believed."""
        passed = now - checked
        return 0.0 if passed < -SKEW else self.negative - max(passed, 0.0)
