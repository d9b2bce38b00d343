"""Further connections for one large blob, while they are of use.

They are opened after a moment, when what is left will take a while at the pace of the first connection, and
that pace is the link's: not the disk's, nor the processor's, nor so high that more connections would cost
more than they bring.
Nothing depends on them: what one of them does not bring, the fill's own connection does.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time, thread_time

import structlog

from mirror.cache.intake import Intake
from mirror.cache.resume import PROGRESS, backoff
from mirror.cache.segments import Claim, Plan, Settings, Want
from mirror.cache.spare import Spare
from mirror.oci.digest import Digest
from mirror.registry import Condition, RegistryError, Unavailable

TICK = 0.25  # seconds between two looks at the pace
WORTH = 0.5  # seconds that the rest would take with no more connections than there are
FAST = 200e6  # bytes a second that need no further connection: what more of them bring, the processor loses
HELD = 0.5  # share of the time that the first connection waits for the disk: then it is not the link's pace
# Share of its processor that the loop uses, or would, and of all processors that the process uses: above it,
# the pace is not the link's either.
BUSY = 0.7
OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
SCHEDULED = Path("/proc/thread-self/schedstat")  # nanoseconds that a thread has run, and waited to run

log = structlog.get_logger()


@dataclass(slots=True)
class _Helper:
    """One connection, and what it brings now."""

    namespace: str
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at a time: bytes received, seconds waited for the disk; seconds of a processor that the
    process has used, and that the loop's thread has used, or waited for while others used it.
    """

    at: float
    received: int
    held: float
    used: float
    wanted: float


class Helpers:
    """See the module's text. `bring` makes one claim come, and raises RegistryError where it does not."""

    def __init__(
        self,
        digest: Digest,
        plan: Plan,
        intake: Intake,
        settings: Settings,
        spare: Spare,
        *,
        condition: Callable[[], Condition],
        wants: Callable[[], Iterable[Want]],
        bring: Callable[[Claim], Awaitable[None]],
    ) -> None:
        self._digest = digest
        self._plan = plan
        self._intake = intake
        self._settings = settings
        self._spare = spare
        self._condition = condition
        self._wants = wants
        self._bring = bring
        self._manager: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], _Helper] = {}
        self._failures = 0  # in a row
        self._not_before = 0.0  # loop.time()
        self._processors = processors()
        self._given_up = False

    @property
    def count(self) -> int:
        """Connections that are open, or being opened."""
        return len(self._tasks)

    def begin(self, size: int) -> None:
        """The blob has so many bytes: look after it, if they are worth it."""
        if self._settings.connections > 1 and size >= self._settings.least and self._intake.keeps:
            self._manager = asyncio.create_task(self._manage())

    async def one_ended(self) -> bool:
        """Wait until one of them has ended, and its claim is free; False where there is none."""
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            return True
        return False

    def displace(self, claim: Claim) -> None:
        """End the one that holds this claim, of which nothing has come: it is anybody's from now on.

        A failure like others, so that an upstream that often lets wait is left with one connection.
        """
        for task, helper in self._tasks.items():
            if helper.claim is claim:
                task.cancel()
                helper.claim = None
                self._plan.drop(claim)
                self._failed(claim, Unavailable("nothing had come of it when it was needed"))

    async def end(self) -> None:
        """End all of them; there are none from now on. What was being written is written."""
        self._given_up = True  # NB: so that these are all
        manager, self._manager = self._manager, None
        ending = [*self._tasks, *([] if manager is None else [manager])]
        for task in ending:
            task.cancel()
        # NB: one wait for all. Who is cancelled in it waits as well, and then goes no further: what a second
        # wait is for would write on into a file that is closed.
        await asyncio.gather(*ending, return_exceptions=True)

    async def _manage(self) -> None:
        """Look at the pace, now and then, and open what is of use."""
        look = self._look()
        with self._spare.wanting(self._condition().namespace):
            while not self._given_up and self._intake.keeps:
                await asyncio.sleep(TICK)
                before, look = look, self._look()
                if look.at >= self._not_before and (self._tasks or self._is_worth(before, look)):
                    self._open()
        if not self._intake.keeps:  # then bytes are of use in order only
            for task in self._tasks:
                task.cancel()

    def _look(self) -> Look:
        now = asyncio.get_running_loop().time()
        return Look(now, self._intake.received, self._intake.held, process_time(), _wanted())

    def _is_worth(self, before: Look, now: Look) -> bool:
        assert self._plan.size is not None
        seconds = now.at - before.at
        pace = (now.received - before.received) / seconds
        if now.held - before.held > HELD * seconds or is_busy(before, now, self._processors):
            return False
        left = self._plan.size - self._intake.there.total
        return 0 < pace < FAST and left > max(pace * WORTH, 2 * self._plan.least)

    def _open(self) -> None:
        """As many as are allowed, and have something to bring."""
        if self._given_up:
            return
        condition = self._condition()
        own = len(self._tasks)
        while len(self._tasks) < self._settings.connections - 1 and self._spare.allows(
            condition.namespace, len(self._tasks), condition.parts
        ):
            claim = self._plan.take(self._wants(), self._settings.connections)
            if claim is None:
                break
            self._start(_Helper(condition.namespace, claim))
        if len(self._tasks) > own == 0:
            log.info(
                "fill.segmented",
                digest=str(self._digest),
                size=self._plan.size,
                have=self._intake.there.total,
                connections=len(self._tasks) + 1,
            )

    def _start(self, helper: _Helper) -> None:
        task = asyncio.create_task(self._run(helper))
        self._tasks[task] = helper
        self._spare.take(helper.namespace)
        task.add_done_callback(lambda ended: self._ended(ended, helper))

    def _ended(self, task: asyncio.Task[None], helper: _Helper) -> None:
        """NB: also where it was cancelled before it began."""
        self._tasks.pop(task, None)
        self._spare.give_back(helper.namespace)
        if helper.claim is not None:
            self._plan.drop(helper.claim)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._given_up = True
            log.error("fill.segment_crashed", digest=str(self._digest), exc_info=error)

    async def _run(self, helper: _Helper) -> None:
        """One connection: a claim after the other, while it may."""
        while helper.claim is not None:
            try:
                await self._bring(helper.claim)
            except RegistryError as error:
                self._failed(helper.claim, error)
                return
            self._failures = 0
            self._plan.drop(helper.claim)
            helper.claim = None
            if self._given_up or not self._intake.keeps:
                return
            if self._spare.leaves(helper.namespace, len(self._tasks), self._condition().parts):
                helper.claim = self._plan.take(self._wants(), len(self._tasks) + 1)

    def _failed(self, claim: Claim, error: RegistryError) -> None:
        """Pause, or open no more: the fill's own connection goes on in any case."""
        self._failures = 1 if claim.position - claim.start >= PROGRESS else self._failures + 1
        wait = backoff(error, self._failures, random.random())  # noqa: S311 - jitter
        if wait is None:
            self._given_up = True
        else:
            self._not_before = asyncio.get_running_loop().time() + wait
        log.info(
            "fill.segment_failed",
            digest=str(self._digest),
            start=claim.start,
            stop=claim.stop,
            have=claim.position - claim.start,
            wait=None if wait is None else round(wait, 2),
            reason=str(error),
        )


def is_busy(before: Look, now: Look, processors: float) -> bool:
    """Whether the mirror had not the processors between two looks to take more than it took.

    The loop is one thread, which can have one processor at most, however many there are; hashing and writing
    have threads of their own.
    """
    seconds = now.at - before.at
    return now.wanted - before.wanted > BUSY * seconds or now.used - before.used > BUSY * processors * seconds


@cache
def processors() -> float:
    """How many this process may use: those it is bound to, or the part of them that its group is given."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        line = next(each for each in OWN_GROUP.read_text().splitlines() if each.startswith("0::/"))
        quota, period = (GROUPS / line.removeprefix("0::/") / "cpu.max").read_text().split()
        return min(count, int(quota) / int(period))
    except (OSError, ValueError, StopIteration, ZeroDivisionError):  # "max", or groups of another kind
        return count


def _wanted() -> float:
    """Seconds of a processor that this thread has had, or would have had if there had been one free."""
    try:
        ran, waited, _ = SCHEDULED.read_text().split()
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):  # a kernel that does not tell
        return thread_time()
