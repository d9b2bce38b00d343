"""TCP links between programs of this machine, in a process of their own: they count, and can delay and slow.

    python -m tests.support.link TARGET_PORT LINKS

prints the ports of so many links to 127.0.0.1:TARGET_PORT, then obeys lines on standard input, and ends with
it: `shape LINK DELAY RATE` is answered by `shaped`, `count LINK` by the bytes that came from the target and
the connections that were made. What is neither delayed nor slowed passes by splice(2), without being copied.

A delay is that of one way. A connection's first byte comes a round trip later: TCP opens a connection before
it carries anything. There are no losses, and no slow start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import socket
import sys
import threading
import time
from dataclasses import dataclass

HOST = "127.0.0.1"
PIECE = 64 << 10  # bytes that are delayed or slowed together: 3 ms of 20 MB/s
PIPE = 256 << 10  # bytes between two splices
FLIGHT = (
    256  # pieces of a connection under way at once: 16 MiB, the most that a way of 40 ms carries at 400 MB/s
)
CONNECTIONS = 1024  # of a link at a time; more wait
CONNECT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Shape:
    """Seconds for one way, and bytes a second from the target for each connection (0: as fast as it goes)."""

    delay: float = 0.0
    rate: float = 0.0


class Link:
    """Carries connections to the target; `received` counts the bytes that came back."""

    def __init__(self, target: int) -> None:
        self.received = 0
        self.connections = 0
        self._target = target
        self._shape = Shape()
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._room = threading.Semaphore(CONNECTIONS)
        self._listener = socket.create_server((HOST, 0), backlog=CONNECTIONS)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def shape(self, shape: Shape) -> None:
        """From now on, for new connections: those that are open are closed."""
        with self._lock:
            self._shape = shape
            for end in self._ends:
                _shut(end, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            near, _address = self._listener.accept()
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """One connection, both ways, until both have ended."""
        with contextlib.suppress(OSError), near:  # a target that is not there: the client is closed on
            far = socket.create_connection((HOST, self._target), CONNECT)
            far.settimeout(None)
            with far:
                ends = (near, far)
                for end in ends:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    shape = self._shape
                    self._ends.update(ends)
                    self.connections += 1
                up = threading.Thread(
                    target=self._pass, args=(near, far, Shape(shape.delay), False), daemon=True
                )
                up.start()
                self._pass(far, near, shape, True)
                up.join()
                with self._lock:
                    self._ends.difference_update(ends)
        self._room.release()

    def _pass(self, source: socket.socket, sink: socket.socket, shape: Shape, back: bool) -> None:
        """One way. `back`: from the target, which is counted."""
        try:
            if shape == Shape():
                self._splice(source, sink, back)
            else:
                self._hold(source, sink, shape, back)
            _shut(sink, socket.SHUT_WR)
        except OSError:  # either end has gone: so has the other then
            _shut(source, socket.SHUT_RDWR)
            _shut(sink, socket.SHUT_RDWR)

    def _splice(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        reading, writing = os.pipe()
        try:
            with contextlib.suppress(OSError):  # a user's share of large pipes is used up: small ones do
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
            while left := os.splice(source.fileno(), writing, PIPE):
                while left:
                    sent = os.splice(reading, sink.fileno(), left)
                    left -= sent
                    self._count(sent, back)
        finally:
            os.close(reading)
            os.close(writing)

    def _hold(self, source: socket.socket, sink: socket.socket, shape: Shape, back: bool) -> None:
        """Each piece is sent when it is due; a thread reads meanwhile."""
        flight: queue.Queue[tuple[float, bytes]] = queue.Queue(FLIGHT)
        threading.Thread(target=_depart, args=(source, shape, flight, back), daemon=True).start()
        failed: OSError | None = None
        while True:
            due, piece = flight.get()
            if not piece:
                break
            if failed is not None:
                continue  # read on to the end, so that the thread that reads ends
            time.sleep(max(due - time.monotonic(), 0))
            try:
                sink.sendall(piece)
                self._count(len(piece), back)
            except OSError as error:
                failed = error
                _shut(source, socket.SHUT_RDWR)
        if failed is not None:
            raise failed

    def _count(self, size: int, back: bool) -> None:
        if back:
            with self._lock:
                self.received += size


def _depart(
    source: socket.socket, shape: Shape, flight: queue.Queue[tuple[float, bytes]], back: bool
) -> None:
    """Read, and say when each piece is due; an empty one is the end."""
    free = time.monotonic() + (0 if back else 2 * shape.delay)
    piece = b"begin"
    while piece:
        try:
            piece = source.recv(PIECE)
        except OSError:
            piece = b""
        free = max(free, time.monotonic()) + (len(piece) / shape.rate if shape.rate else 0)
        flight.put((free + shape.delay, piece))


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(how)


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    links = [Link(int(sys.argv[1])) for _ in range(int(sys.argv[2]))]
    _say(*(link.port for link in links))
    for line in sys.stdin:
        word, number, *rest = line.split()
        link = links[int(number)]
        if word == "shape":
            link.shape(Shape(*map(float, rest)))
            _say("shaped")
        else:
            _say(link.received, link.connections)


if __name__ == "__main__":
    main()
