"""Where HEAD does not do: the memory that saves asking in vain, and does not give up HEAD for a stray answer.

Docker Hub counts GETs of manifests and not HEADs, so a wrong "not here" is dear; a second request for
everything, where HEAD never works (ECR Public, Harbor's own proxy), is slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from cachetools import TTLCache

from mirror.oci.names import Repository

REFUSED_SECONDS = 3600.0  # after which HEAD is tried again: the refusal may have been a passing fault
REPOSITORIES = 1024  # that are remembered one by one; for a forgotten one HEAD is tried again
# Repositories one after the other, without a useful HEAD in between, that are a rule and no accident: a tag
# that is pushed between HEAD and GET, or a replica that lags behind, is one repository's.
RULE = 3
# What a registry may answer to HEAD that knows the thing: "not allowed", and every lie about it. Not 429 and
# 5xx: another request would make those worse.
REFUSALS = frozenset({400, 401, 403, 404, 405, 501})
# Of those, what is about the method and not about the thing: said once, it holds for the whole registry.
_METHOD_REFUSED = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


class Heads:
    """What is known about HEAD for one kind of thing at one upstream."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = now()  # before it, HEAD is tried nowhere
        self._refusing: TTLCache[Repository, None] = TTLCache(REPOSITORIES, REFUSED_SECONDS, timer=now)
        self._in_a_row: TTLCache[Repository, None] = TTLCache(RULE, REFUSED_SECONDS, timer=now)

    def worth(self, repository: Repository) -> bool:
        """Whether to try HEAD."""
        return self._now() >= self._until and repository not in self._refusing

    def worked(self) -> None:
        """A HEAD said what it was asked for: this registry does answer it."""
        self._in_a_row.clear()

    def contradicted(self, repository: Repository, status: int) -> None:
        """HEAD gave this status, or a 200 that left out what was asked for, and GET knew better."""
        self._refusing[repository] = self._in_a_row[repository] = None
        if status in _METHOD_REFUSED or len(self._in_a_row) >= RULE:
            self._in_a_row.clear()
            self._until = self._now() + REFUSED_SECONDS
