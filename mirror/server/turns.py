"""Who is answered next, where more is asked than can be answered at once.

A request that the handlers answer takes some 0.3 ms of the loop. Without turns, whoever has 200 connections
has 200 of them answered before anybody else's. So, of each client (an address, as connections are counted):

- One request of his begins in each turn of the loop, at once, as long as no other of his waits.
- What is more waits, and one of all that wait begins in a turn: by rounds of the clients, and within a client
  in the order of coming. A client who had nothing waiting goes before the rounds (as RFC 8290 §4.1 has it for
  packets), and then takes part in one, so that coming and going is no way around them.

That is slower only for who has more than one request at a time while a processor is used up. What waits is
bounded by the connections: one of each.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable


class Turns:
    """Of one loop. A client is whatever can be compared."""

    def __init__(self) -> None:
        self._begun: set[Hashable] = set()  # clients of whom a request has begun in this turn
        self._new: OrderedDict[Hashable, deque[Callable[[], None]]] = OrderedDict()  # none is empty
        self._rounds: OrderedDict[Hashable, deque[Callable[[], None]]] = OrderedDict()
        self._runs = False  # the next turn will be noticed

    def takes(self, client: Hashable) -> bool:
        """Whether a request of this client may begin now; else it has to `wait`."""
        if client in self._begun or client in self._new or client in self._rounds:
            return False
        self._begun.add(client)
        self._run()
        return True

    def wait(self, client: Hashable, begin: Callable[[], None]) -> None:
        """Call `begin` in a later turn, when it is this client's."""
        waiting = self._rounds.get(client)
        if waiting is None:
            waiting = self._new.setdefault(client, deque())
        waiting.append(begin)
        self._run()

    async def turn(self, client: Hashable) -> None:
        """Wait for one."""
        if not self.takes(client):
            come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.wait(client, lambda: None if come.done() else come.set_result(None))
            await come

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, (*self._new.values(), *self._rounds.values())))

    def _run(self) -> None:
        if not self._runs:
            self._runs = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """A turn of the loop has begun."""
        self._runs = False
        self._begun.clear()
        begin = self._next()
        if begin is not None:
            begin()
        if self._new or self._rounds:
            self._run()

    def _next(self) -> Callable[[], None] | None:
        """The first of those who are new, else of the rounds, in which its client is the last then."""
        while waiting := self._new or self._rounds:
            client, queue = waiting.popitem(last=False)
            if queue:
                self._rounds[client] = queue
                self._begun.add(client)
                return queue.popleft()
        return None
