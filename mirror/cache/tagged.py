"""Manifests by tag: fresh, due, or too old; asked of the upstream once for all who ask at once.

1. A fresh word of the upstream (`freshness`) needs nobody.
2. A due one costs one shared check: HEAD, and the manifest if the tag has moved away from a kept one. A
   client that could have the kept one waits for the deadline at most; the check goes on behind.
3. Where the upstream is away, the kept copy stands in, until it is too old; with a warning.
4. A copy of which blobs are missing is no copy while they cannot be had: then the client waits, as for a cold
   tag, and is refused with 503 (`away.incomplete`).
5. A refusal of the upstream is passed on, and remembered across restarts: a deleted tag does not come back
   because the upstream is slow.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog
from cachetools import TTLCache

from mirror import provenance
from mirror.cache.away import AWAY, ago, note_failure
from mirror.cache.checks import Checked, Checks
from mirror.cache.images import Images
from mirror.cache.manifests import Manifests
from mirror.cache.patience import Patience
from mirror.cache.standing import Standing, Standings
from mirror.oci.names import Repository, Tag
from mirror.registry import (
    Condition,
    RateLimited,
    RawManifest,
    RegistryError,
    Resolved,
    Unavailable,
    Upstream,
)

STALE_SAID = 1000  # tags of which it is remembered that their copy stands in
STALE_SAID_SECONDS = 60.0  # for so long it is not said again: the request log has each answer

log = structlog.get_logger()


class Tagged:
    """See the module's text."""

    def __init__(
        self,
        upstream: Upstream,
        manifests: Manifests,
        images: Images,
        standings: Standings,
        checks: Checks,
        patience: Patience,
    ) -> None:
        self._upstream = upstream
        self._manifests = manifests
        self._images = images
        self._standings = standings
        self._checks = checks
        self._patience = patience
        self._said: TTLCache[tuple[Repository, Tag], None] = TTLCache(STALE_SAID, STALE_SAID_SECONDS)

    async def get(self, repository: Repository, tag: Tag) -> RawManifest:
        """The manifest, whole."""
        resolved = await self.resolve(repository, tag, whole=True)
        if resolved.manifest is not None:
            return resolved.manifest
        provenance.current().stored = True
        manifest = await self._manifests.asked(repository, resolved.descriptor.digest)
        return await self._manifests.complete(repository, manifest)

    async def resolve(self, repository: Repository, tag: Tag, *, whole: bool = False) -> Resolved:
        """What the tag points to. `whole`: the manifest is wanted next."""
        condition = self._upstream.condition(repository)
        known = await self._standings.of(repository, tag, condition)
        resolved = await self._told(repository, tag, known, condition, whole=whole)
        if resolved is not None:
            return resolved
        copy = await self._manifests.copy(repository, tag, known.word)
        later = self._standings.known(repository, tag, condition)
        if later.word is not known.word and (later.age.is_fresh or later.refusal_left > 0):
            known = later  # somebody's check has ended meanwhile
            resolved = await self._told(repository, tag, known, condition, whole=whole)
            if resolved is not None:
                return resolved
        told = provenance.current()
        told.fwd = "uri-miss" if copy is None else "stale"
        if copy is None and not known.is_refused:
            self._upstream.expect(repository)  # whoever asks for an image that is not here comes for it
        if copy is None or known.is_refused or not known.age.may_stand_in:
            return await self._wait(repository, tag, known, condition, None)
        return await self._due(repository, tag, known, condition, copy)

    async def _told(
        self, repository: Repository, tag: Tag, known: Standing, condition: Condition, *, whole: bool
    ) -> Resolved | None:
        """The answer by a word that is still believed; None where there is none. Raises its refusal."""
        told = provenance.current()
        if known.refusal_left > 0:
            assert known.word is not None
            told.refused_lately(known.refusal_left)
            raise known.word.refused()
        if not known.age.is_fresh:
            return None
        resolved = await self._fresh(repository, tag, known, condition, whole=whole)
        if resolved is not None:
            told.hit, told.ttl = True, known.age.fresh_left
        return resolved

    async def _fresh(
        self, repository: Repository, tag: Tag, known: Standing, condition: Condition, *, whole: bool
    ) -> Resolved | None:
        """The answer that asks nobody; None when it takes a request all the same.

        NB: where a copy is kept of what the tag was before, HEAD waits for the new manifest as GET does. Else
        it would name what GET does not give while that cannot be had.
        """
        assert known.word is not None
        assert known.word.digest is not None
        manifest = await self._manifests.here(repository, known.word.digest)
        self._manifests.retag(repository, tag, known.word.digest, manifest)
        if manifest is None:
            if whole or known.points is None or condition.blobs is not None:
                return None
            moved = await self._manifests.tagged(repository, tag) is not None
            return None if moved else Resolved(known.points)
        return Resolved(manifest.descriptor, await self._manifests.complete(repository, manifest))

    async def _due(
        self, repository: Repository, tag: Tag, known: Standing, condition: Condition, copy: RawManifest
    ) -> Resolved:
        """Ask, for as long as the client may be held, or see why not; what is kept stands in."""
        reason: RegistryError | None = condition.trouble
        failure: RegistryError | None = None  # of a check that has ended
        running = self._checks.is_running(repository, tag)
        if reason is None and (running or self._patience.worth(condition.namespace)):
            check = self._check(repository, tag, known, condition)
            wait = self._patience.wait(condition.namespace)
            try:
                async with asyncio.timeout(wait):
                    checked = await asyncio.shield(check)
            except TimeoutError:
                if wait:
                    self._patience.overran(condition.namespace)
            except AWAY as error:
                reason = failure = error
            except RegistryError as error:
                note_failure(error, condition.trouble)
                raise
            else:
                if checked.failure is None:
                    return await self._answered(repository, checked, known, copy)
                reason = failure = checked.failure
        if reason is None:
            seconds = self._patience.deadline
            reason = Unavailable(f"the upstream registry did not answer within {seconds:g} s")
        lacking = await self._lacks_blobs(repository, copy, reason, condition)
        if lacking and failure is None:
            return await self._wait(repository, tag, known, condition, copy)
        # NB: a new manifest that is not there (404) is an upstream whose parts do not agree; it will come.
        if failure is not None and (lacking or failure.status in (401, 403)):
            await self._fail(repository, failure, condition, copy)
        self._stands_in(repository, tag, known, reason)
        return Resolved(copy.descriptor, copy)

    async def _wait(
        self,
        repository: Repository,
        tag: Tag,
        known: Standing,
        condition: Condition,
        copy: RawManifest | None,
    ) -> Resolved:
        """The upstream's answer, whatever it is, and however long it takes.

        `copy` is what is kept and is not all here; None where nothing kept could stand in.
        """
        try:
            checked = await asyncio.shield(self._check(repository, tag, known, condition))
        except RegistryError as error:
            failure = error
        else:
            if checked.failure is None:
                return await self._answered(repository, checked, known, copy)
            failure = checked.failure
        if isinstance(failure, AWAY) and known.word is not None and known.is_refused:
            note_failure(failure, condition.trouble)
            told = provenance.current()
            told.fwd_status, told.detail = None, told.detail or "away"
            refusal = known.word.refused()
            refusal.message += (
                f" ({ago(known.checked_ago or 0.0)} ago; it cannot be asked now: {failure.message})"
            )
            raise refusal from failure
        return await self._fail(repository, failure, condition, copy)

    async def _fail(
        self, repository: Repository, failure: RegistryError, condition: Condition, copy: RawManifest | None
    ) -> NoReturn:
        """Raise it; or what it means for a copy that is not all here."""
        note_failure(failure, condition.trouble)
        if isinstance(failure, AWAY) and copy is not None:
            await self._manifests.demand_all(repository, copy, failure)
        raise failure

    async def _answered(
        self, repository: Repository, checked: Checked, known: Standing, copy: RawManifest | None
    ) -> Resolved:
        """The upstream's answer, unless blobs that it names cannot be had."""
        told = provenance.current()
        if checked.manifest is not None:
            await self._manifests.complete(repository, checked.manifest)
        told.fwd_status, told.ttl = 200, known.fresh
        told.stored = checked.manifest is not None and checked.manifest != copy
        return Resolved(checked.descriptor, checked.manifest)

    def _check(
        self, repository: Repository, tag: Tag, known: Standing, condition: Condition
    ) -> asyncio.Task[Checked]:
        provenance.current().collapsed = self._checks.is_running(repository, tag)
        return self._checks.start(repository, tag, condition.namespace, known.points)

    async def _lacks_blobs(
        self, repository: Repository, copy: RawManifest, reason: RegistryError, condition: Condition
    ) -> bool:
        """Whether blobs of the copy are missing that could not be had either."""
        if isinstance(reason, RateLimited) and condition.blobs is None:
            return False  # registries limit manifests, not blobs
        return (await self._images.missing(repository, copy))[0] > 0

    def _stands_in(self, repository: Repository, tag: Tag, known: Standing, reason: RegistryError) -> None:
        """Say that a kept copy is given although it is due."""
        passed = known.checked_ago
        when = "at an unknown time" if passed is None else f"{ago(passed)} ago"
        provenance.current().served_stale(
            None if passed is None else known.age.fresh_left,
            "limited" if isinstance(reason, RateLimited) else "away",
            f"this copy was last checked {when}: {reason.message}",
        )
        if (repository, tag) not in self._said:
            self._said[repository, tag] = None
            log.warning(
                "tag.stale", repository=str(repository), tag=str(tag), reason=str(reason), checked=when
            )
