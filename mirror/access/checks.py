"""Turns for work that keeps a processor busy: bounded, and the same for each who asks.

1. `workers` pieces of work run at a time, each in a thread. One client has half of them at most, so that
   somebody who tries passwords keeps nobody else from being let in.
2. Clients take turns, not requests: who has a hundred waiting gets as many turns as who has one.
3. So many may wait, of one client and in all; the next is refused at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

WAITING = 512  # in all: some 15 s of work for two threads at bcrypt's usual cost
WAITING_EACH = 64  # of one client: a node that pulls an image asks some ten times at once
IPV6_PREFIX = 64  # bits; whoever has one IPv6 address has all that share them

Work = Callable[[], bool]
_Turn = tuple["asyncio.Future[bool]", Work]


class Busy(Exception):
    """Too much waits already."""


class Turns:
    """See the module's text. `close` when nobody asks any more."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._each = max(1, workers // 2)
        self._threads = ThreadPoolExecutor(workers, "access")
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()  # who is to go next stands first
        self._count = 0
        self._running: Counter[str] = Counter()
        self._closed = False

    async def run(self, client: str, work: Work) -> bool:
        """What `work` returns, in a thread, when it is this client's turn. Raises Busy."""
        queue = self._waiting.get(client)
        if self._closed or self._count >= WAITING or (queue is not None and len(queue) >= WAITING_EACH):
            raise Busy
        if queue is None:
            queue = self._waiting[client] = deque()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append((future, work))
        self._count += 1
        self._go()
        return await future  # NB: who is cancelled while it waits is passed over when its turn comes

    def _go(self) -> None:
        """Begin what may begin."""
        while self._running.total() < self._workers:
            client = next((each for each in self._waiting if self._running[each] < self._each), None)
            if client is None:
                return
            queue = self._waiting[client]
            future, work = queue.popleft()
            self._count -= 1
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            if not future.cancelled():
                self._begin(client, future, work)

    def _begin(self, client: str, future: asyncio.Future[bool], work: Work) -> None:
        self._running[client] += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)

        def ended(done: asyncio.Future[bool]) -> None:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]
            error = None if done.cancelled() else done.exception()
            if not future.done():
                if done.cancelled() or error is not None:
                    future.set_exception(error or Busy())
                else:
                    future.set_result(done.result())
            self._go()

        running.add_done_callback(ended)

    async def close(self) -> None:
        """Refuse what waits; what runs ends by itself, in less than a second at usual costs."""
        self._closed = True
        for queue in self._waiting.values():
            for future, _work in queue:
                if not future.done():
                    future.set_exception(Busy())
        self._waiting.clear()
        self._count = 0
        self._threads.shutdown(wait=False, cancel_futures=True)


def client_of(address: str) -> str:
    """Who takes one turn: an address, or the network of one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, IPV6_PREFIX), strict=False))
