"""How one upstream is doing: its breakers and its quota, and what they mean for the next question."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from yarl import URL

from mirror.registry import Condition, RateLimited, RegistryError
from mirror.upstream.breaker import State
from mirror.upstream.breakers import OWN, Breakers, Role
from mirror.upstream.failures import TransportError, Trouble, from_trouble
from mirror.upstream.fetch import Answer
from mirror.upstream.quota import Question, Quota
from mirror.upstream.ranges import Ranges
from mirror.upstream.retry import retry_after
from mirror.upstream.settings import Settings

# Connections over which parts of blobs are fetched, beside one for each of the 32 fills; a quarter of those
# that there are, so that manifests and tokens have some left.
PARTS = 12
PARTS_SHARE = 4

_log = structlog.get_logger()


class Health:
    """Of the registry at `base`, which errors call `name`; `now` is the clock that all times are of.

    `ranges` knows whether it gives parts of blobs.
    """

    def __init__(
        self, settings: Settings, base: URL, name: str, now: Callable[[], float], ranges: Ranges
    ) -> None:
        self._ranges = ranges
        self.breakers = Breakers(now)
        self._quota = Quota()
        self._base = base
        self._name = name
        self._reserve = settings.reserve
        self._namespace = settings.namespace or base.authority
        parts = min(PARTS, settings.connections // PARTS_SHARE)
        # By whether it gives parts.
        self._well = {False: Condition(self._namespace), True: Condition(self._namespace, parts=parts)}
        self._now = now

    def question(self, blob: bool) -> Question:
        """Leave to ask, as far as the quota has a say. Raises RateLimited."""
        admitted = self._quota.admit(blob, self._now())
        if isinstance(admitted, Question):
            return admitted
        raise self._limited(admitted)

    def hears(self, question: Question, method: str) -> Callable[[Answer], None]:
        """What learns from the answers to this question."""

        def heard(answer: Answer) -> None:
            wait = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
            # Storage may limit us as well, but its numbers are not the registry's.
            question.heard(
                method, answer.status, {} if answer.elsewhere else answer.headers, wait, self._now()
            )
            if not answer.elsewhere and "docker-ratelimit-source" in answer.headers:
                source, word = answer.headers["docker-ratelimit-source"], self._quota.describe(self._now())
                _log.debug("upstream.quota", host=self._base.host, source=source, **(word or {}))

        return heard

    def limited(self, question: Question, error: RateLimited) -> None:
        """The token server limits us: without a token this question cannot be asked."""
        question.limited(error.retry_after, self._now())

    def condition(self, scope: str) -> Condition:
        """How it is doing in this scope: the same value each time while all is well."""
        now = self._now()
        stretch = self._quota.stretch(now, self._reserve)
        if stretch == 1.0 and self._quota.waits_for_nothing and self.breakers.all_closed:
            # Soon said: this is asked for each answer from what is kept.
            return self._well[self._ranges.given]
        away = self._shut(Role.REGISTRY, now, scope) or self._shut(Role.TOKENS, now, scope)
        trouble = away or self._shut(Role.MANIFESTS, now, scope) or self._waits(False, now)
        blobs = away or self._shut(Role.BLOBS, now, scope) or self._waits(True, now)
        well = self._well[self._ranges.given and blobs is None and stretch == 1.0]
        return Condition(self._namespace, trouble, blobs, stretch, well.parts)

    def describe(self, now: float, scope: str) -> dict[str, Any]:
        """For operators, without secrets: `url`, `state` (ok, open, half-open, limited) in this scope,
        `retry_in` in seconds, `failures` in a row, `breakers`, `quota`. A breaker has `failed` if the last
        request did: `ago` in seconds, `cause`, and `limit`, how many in a row have nobody asked.
        """
        breakers = self.breakers.describe(now, scope)
        state, wait = "ok", self._quota.wait(False, now)
        if wait is not None:
            state = "limited"
        own = [each for each in breakers if each["role"] in OWN]
        worst = max(
            own, key=lambda each: (each["state"] != State.CLOSED.value, each["failures"]), default=None
        )
        if worst is not None and worst["state"] != State.CLOSED.value:
            state, wait = worst["state"], worst["retry_in"]
        return {
            "url": str(self._base),
            "state": state,
            "retry_in": round(wait, 1) if wait is not None else None,
            "failures": worst["failures"] if worst is not None else 0,
            "breakers": breakers,
            "quota": self._quota.describe(now),
        }

    def _shut(self, role: Role, now: float, scope: str) -> RegistryError | None:
        wait = self.breakers.wait(role, now, scope)
        if wait is None:
            return None
        name = f"the token server of {self._name}" if role is Role.TOKENS else self._name
        storage = role in (Role.MANIFESTS, Role.BLOBS)
        return from_trouble(TransportError(Trouble.SHUT, retry_after=wait, storage=storage), name)

    def _waits(self, blob: bool, now: float) -> RegistryError | None:
        wait = self._quota.wait(blob, now)
        return self._limited(wait) if wait is not None else None

    def _limited(self, wait: float) -> RateLimited:
        return RateLimited(f"{self._name} limits the rate of our requests", retry_after=wait)
