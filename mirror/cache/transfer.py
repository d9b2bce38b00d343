"""Getting a blob's bytes from upstreams: one connection at first, several for a large one (see `helpers`).

The first connection is the fill's own: what happens to it decides about the fill (rule 5). It asks for all of
the blob, as a fill of a small one does; once others help, it ends where their part begins, and goes on with
the next part as they do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog

from mirror.cache.helpers import Helpers
from mirror.cache.intake import Intake
from mirror.cache.resume import PROGRESS, backoff
from mirror.cache.segments import Claim, Plan, Settings, Want
from mirror.cache.spare import Spare
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Condition, Corrupt, RegistryError, Unavailable, Upstream

BEGIN = 1.0  # seconds that the fill's own connection waits for another one to begin where it is to end itself

log = structlog.get_logger()


class Transfer:
    """See the module's text. `repositories` may become more; `wants`: what readers wait for.

    `told` is called when the size is known.
    """

    def __init__(
        self,
        digest: Digest,
        repository: Repository,
        repositories: set[Repository],
        *,
        upstream: Upstream,
        intake: Intake,
        settings: Settings,
        spare: Spare,
        wants: Callable[[], Iterable[Want]],
        told: Callable[[], None],
    ) -> None:
        self.size: int | None = None  # bytes, once the upstream has said it
        self.resumed = 0  # times that it broke off and went on
        self._digest = digest
        self._through = repository  # through which the upstream is asked
        self._repositories = repositories
        self._upstream = upstream
        self._intake = intake
        self._settings = settings
        self._wants = wants
        self._told = told
        self._plan = Plan(intake.there, settings.claim)
        self._helpers = Helpers(
            digest,
            self._plan,
            intake,
            settings,
            spare,
            condition=self._condition,
            wants=wants,
            bring=self._help,
        )

    async def run(self) -> None:
        """Take the rest from the upstream, through as many breaks as rule 5 allows. Raises RegistryError."""
        try:
            if self._intake.hashed and self._intake.matches():
                # Complete but for the commit. The upstream still has to say that this repository has it.
                found = await self._upstream.stat_blob(self._through, self._digest)
                if found.size == self._intake.there.last:  # else what was sent tells, not what was said
                    await self._announce(found.size)
            await self._all()
        finally:
            await self._helpers.end()

    async def _all(self) -> None:
        """The fill's own connection: one request after the other, until all is there."""
        breaks = 0
        given_up: set[str] = set()  # upstreams
        whole = False  # the next attempt asks for all of it, since the upstream answers a Range wrongly
        while self.size is None or self._intake.hashed < self.size:
            claim = await self._next()
            if claim is None:
                continue
            try:
                await self._attempt(claim, whole=whole)
                breaks, whole = 0, False
            except RegistryError as error:
                misfit = isinstance(error, Corrupt) or error.code is ErrorCode.RANGE_INVALID
                if misfit and self._intake.there and self.size is None:
                    await self._intake.kept.start_over(error)
                    continue
                breaks = 1 if claim.position - claim.start >= PROGRESS else breaks + 1
                whole = misfit and claim.start > 0 and not whole
                # Before the size is known, the upstream client has made its own attempts.
                wait = None if self.size is None else backoff(error, breaks, random.random(), whole=whole)  # noqa: S311 - jitter
                if wait is None:
                    given_up.add(self._namespace(self._through))
                    other = self._other(given_up)
                    if other is None:
                        raise
                    self._through, breaks, whole, wait = other, 0, False, 0.0
                self._tell(error, breaks, wait)
                await asyncio.sleep(wait)
            finally:
                self._plan.drop(claim)

    async def _next(self) -> Claim | None:
        """What the fill's own connection is to bring next; None: look again."""
        if self.size is None:
            return self._plan.first(self._intake.hashed)
        if not self._intake.keeps:  # then bytes are of use in order only
            await self._helpers.end()
            await self._intake.kept.catch_up()
            return self._plan.first(self._intake.hashed)
        claim = self._plan.take(self._wants(), self._sharing())
        if claim is None and not await self._helpers.one_ended():
            await self._intake.kept.catch_up()
            # Where the disk could not be read just now, the rest comes in order.
            if self._intake.kept.keeps and self._intake.hashed < self.size:
                raise Unavailable("internal error of the mirror: a part of the blob is nobody's", status=500)
        return claim

    async def _attempt(self, claim: Claim, *, whole: bool) -> None:
        """One GET, to the end of what it is for or to the upstream's breaking off."""
        start = 0 if whole else claim.position
        stop = None if whole or claim.is_open else claim.stop
        blob = await self._upstream.blob(self._through, self._digest, start=start, size=self.size, stop=stop)
        try:
            if blob.start > claim.position:
                raise Corrupt("the upstream registry answered with another range than was asked for")
            if blob.start < claim.position:  # all of it comes
                claim.is_open = claim.skips = True
            await self._announce(blob.descriptor.size)
            assert self.size is not None
            await self._intake.pump(
                blob,
                claim,
                self.size if claim.is_open else claim.stop,
                lambda: self._onward(claim),
                worth=self._settings.claim,
            )
        finally:
            await blob.close()

    async def _onward(self, claim: Claim) -> bool:
        """Whether the fill's own connection goes on behind its claim, which was moved then.

        It is known to bring what comes next; who holds that, and has brought nothing yet, may fail. So he is
        waited for, and displaced when he takes long; not while a reader waits for what nobody brings.
        """
        ends = asyncio.get_running_loop().time() + BEGIN
        while not self._plan.onward(claim, self._sharing()):
            ahead = self._plan.ahead(claim)
            if ahead is None or self._plan.lacks(self._wants()):
                return False
            try:
                async with asyncio.timeout_at(ends):
                    await ahead.settled.wait()
            except TimeoutError:
                if not ahead.settled.is_set():
                    self._helpers.displace(ahead)
        return True

    async def _help(self, claim: Claim) -> None:
        """One GET of another connection, for just that claim."""
        blob = await self._upstream.blob(
            self._through, self._digest, start=claim.position, size=self.size, stop=claim.stop
        )
        try:
            if blob.start != claim.position:
                raise RegistryError(ErrorCode.RANGE_INVALID, "the upstream registry does not do ranges")
            await self._intake.pump(blob, claim, claim.stop, worth=self._settings.claim)
        finally:
            await blob.close()

    async def _announce(self, size: int) -> None:
        """Learn the size, once; rule 9."""
        if self.size is not None:
            if self.size != size:
                raise Corrupt(f"the blob's size changed from {self.size} to {size} bytes")
            return
        if self._intake.there.last > size:
            raise Corrupt(f"the blob has {size} bytes, fewer than an earlier transfer brought")
        await self._intake.kept.make_room(size)
        self.size = size
        self._plan.sized(size)
        self._told()
        self._helpers.begin(size)

    def _sharing(self) -> int:
        """How many connections share what nobody has; one, its own, once no more of them may be opened.

        Then others end with what they have, and the rest costs as few requests as can be.
        """
        return self._helpers.count + 1 if self._condition().parts else 1

    def _condition(self) -> Condition:
        return self._upstream.condition(self._through)

    def _namespace(self, repository: Repository) -> str:
        return self._upstream.condition(repository).namespace

    def _other(self, given_up: set[str]) -> Repository | None:
        """A repository of another upstream, which has confirmed that it has the blob.

        None before the first upstream has given the size: then it is not sure that that one has it at all,
        and those who came through others ask anew.
        """
        if self.size is None:
            return None
        others = sorted(self._repositories, key=str)
        return next((other for other in others if self._namespace(other) not in given_up), None)

    def _tell(self, error: RegistryError, breaks: int, wait: float) -> None:
        self.resumed += 1
        log.info(
            "fill.resuming",
            digest=str(self._digest),
            repository=str(self._through),
            have=self._intake.there.total if self._intake.keeps else self._intake.hashed,
            size=self.size,
            attempt=breaks,
            wait=round(wait, 2),
            reason=str(error),
        )
