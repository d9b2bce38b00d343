"""What a registry lets one credential ask of it, as far as its answers tell. Decides only; times are seconds
of one monotonic clock, given by the caller.

1. The last word counts: `ratelimit-limit: 100;w=21600` with `ratelimit-remaining: 76;w=21600` (Docker Hub),
   or the same with `x-` in front. Whatever makes no sense is as good as not said.
2. Below the reserve answers are to be believed for longer, until the window has passed since the last word.
3. After a 429 nothing of that kind is asked until Retry-After, or a pause that doubles, has passed; then one
   question tries. Blobs and all the rest are of two kinds: Docker Hub counts manifests only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mirror.upstream.breaker import Breaker

STRETCH = 10.0  # times as long: a tag that is checked each minute is then checked every ten
WAIT_LIMIT = (
    60.0  # seconds after a 429 without a question; a longer Retry-After is passed on, and tried sooner
)
WINDOW = 60.0  # seconds, where none is said: what is asked meanwhile renews the word
WINDOW_LIMIT = 86400.0  # seconds; no quota is known that counts for longer than a day

_COUNT = re.compile(r"\s*(\d{1,12})\s*(?:[,;]|\Z)", re.ASCII)
_WINDOW = re.compile(r";\s*w\s*=\s*(\d{1,9})\s*(?:[,;]|\Z)", re.ASCII)
_FAMILIES = ("ratelimit", "x-ratelimit")


@dataclass(frozen=True, slots=True)
class Word:
    """What a registry said of its limit at `heard`: `remaining` requests of `limit` in `window` seconds."""

    limit: int
    remaining: int
    window: float
    heard: float

    def holds(self, now: float) -> bool:
        """Whether it still tells something: later, what was used up has come back."""
        return now < self.heard + self.window

    def leaves(self, share: float) -> bool:
        """Whether at least this share of the limit is left."""
        return self.remaining >= share * self.limit


def parse(headers: Mapping[str, str], now: float) -> Word | None:
    """The word in an answer's headers (any case of names); None where there is none that makes sense."""
    for family in _FAMILIES:
        limit = headers.get(f"{family}-limit", "")
        remaining = headers.get(f"{family}-remaining", "")
        most, left = _COUNT.match(limit), _COUNT.match(remaining)
        if most is None or left is None or int(most[1]) == 0:
            continue
        window = _WINDOW.search(limit) or _WINDOW.search(remaining)
        seconds = float(window[1]) if window is not None else 0.0
        return Word(int(most[1]), int(left[1]), min(seconds, WINDOW_LIMIT) or WINDOW, now)
    return None


class Quota:
    """See the module's text."""

    def __init__(self) -> None:
        self.word: Word | None = None
        self._kinds = {blob: Breaker(failures=1, limit=WAIT_LIMIT) for blob in (False, True)}

    def wait(self, blob: bool, now: float) -> float | None:
        """Seconds until a question of this kind is worth asking; None for now."""
        return self._kinds[blob].wait(now)

    @property
    def waits_for_nothing(self) -> bool:
        """Whether questions of both kinds are let through."""
        return self._kinds[False].is_closed and self._kinds[True].is_closed

    def admit(self, blob: bool, now: float) -> Question | float:
        """Leave for one question, or the seconds until it is worth asking."""
        left = self._kinds[blob].admit(now)
        return Question(self, self._kinds[blob]) if left is None else left

    def stretch(self, now: float, reserve: float) -> float:
        """By how much longer answers are to be believed; 1.0 unless less than `reserve` (a share) is left."""
        word = self.word
        return 1.0 if word is None or word.leaves(reserve) or not word.holds(now) else STRETCH

    def used_up(self, now: float) -> None:
        """A 429: nothing is left, for as long as the last word said."""
        word = self.word
        known = word if word is not None and word.holds(now) else None
        self.word = Word(known.limit, 0, known.window, now) if known else Word(1, 0, WINDOW, now)

    def describe(self, now: float) -> dict[str, Any] | None:
        """The last word for operators; None where there is none that holds."""
        word = self.word
        if word is None or not word.holds(now):
            return None
        return {
            "limit": word.limit,
            "remaining": word.remaining,
            "window": word.window,
            "reset_in": round(word.heard + word.window - now, 1),
        }


class Question:
    """One question's leave, from `Quota.admit`. Whoever has it says what came of it, and `ended` at last."""

    __slots__ = ("_breaker", "_quota", "_turn")

    def __init__(self, quota: Quota, breaker: Breaker) -> None:
        self._quota = quota
        self._breaker = breaker
        self._turn = breaker.turn

    def heard(
        self, method: str, status: int, headers: Mapping[str, str], retry_after: float | None, now: float
    ) -> None:
        """An answer came, perhaps one of several. `retry_after`: its Retry-After in seconds."""
        if status == HTTPStatus.UNAUTHORIZED:
            return  # nothing was asked yet, and what is said of limits would be another credential's
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.limited(retry_after, now)
        elif method == "HEAD":
            # It may be free where GET is not: it opens the gate, and leaves the next pause as it is.
            self._breaker.began(self._turn)
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._breaker.succeeded(self._turn)
        self._quota.word = parse(headers, now) or self._quota.word

    def limited(self, retry_after: float | None, now: float) -> None:
        """A 429 came. With no Retry-After, or one of 0 s, the pause is our own: 1 s, doubled each time."""
        pause = self._breaker.failed(self._turn, now, 1.0, pause=retry_after or None)
        if pause is not None:
            self._turn = self._breaker.turn  # should the same question be asked again, and pass
            self._quota.used_up(now)

    def ended(self) -> None:
        """Nothing more will be heard."""
        self._breaker.returned(self._turn)
