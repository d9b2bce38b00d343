"""The threads in which all fills hash and write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

THREADS = 4  # more only fight for the disk
# By how much they are nicer (nice(2)) than the event loop: where processors are short, a hit does not wait
# until a thread that hashes has had its time, which is some milliseconds. Not by more: a nice thread that
# has Python's lock while others keep the processors busy holds up the loop, by 10 twice as long as by 5.
NICER = 5

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


def give_way() -> None:
    """Let the calling thread have the processors after others, where threads can be told apart (Linux)."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox may forbid it: nothing depends on it
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)


class Hands:
    """Work is begun in the order in which it comes. Who could go on for long gives way: see `are_wanted`."""

    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="fill", initializer=give_way)
        self._lock = threading.Lock()
        self._waiting = 0

    @property
    def are_wanted(self) -> bool:
        """Whether work waits for a thread. May be asked in any."""
        return self._waiting > 0

    async def run(
        self,
        work: Callable[[*Ts], T],
        *args: *Ts,
        then: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> T:
        """Run blocking work in a thread, and wait for its end also when cancelled; `then` is told of it
        before this comes back.

        NB: a thread that still wrote to a file after that was closed could write into whatever file
        got the same descriptor next.
        """
        with self._lock:
            self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._begin, work, *args)
        if then is not None:
            future.add_done_callback(then)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            waits = True
            while waits:
                with contextlib.suppress(asyncio.CancelledError):  # who ends it twice waits as well
                    # NB: also where it has ended: a cancellation may come before the turn in which `then`
                    # is told, and this comes back after it.
                    await asyncio.wait([future])
                    waits = False
            raise

    def shutdown(self) -> None:
        """Wait for what is being done. Blocks."""
        self._executor.shutdown(wait=True)

    def _begin(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """In a thread."""
        with self._lock:
            self._waiting -= 1
        return work(*args)
