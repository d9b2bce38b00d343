"""Lines leave without waiting, so that a reader who stops reading stops nothing but the log.

A pipe that nobody reads takes 64 KiB, and then each write waits for ever: on the event loop that would be
the end of every transfer, and of the stop too. So what cannot leave at once waits in a bounded queue, which a
thread empties; when it is full lines are dropped, and the next that gets in is followed by how many.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TextIO

QUEUE_LIMIT = 4 << 20  # bytes that wait for each stream: some 10,000 lines, seconds of a busy mirror
# Bytes of one write. Up to PIPE_BUF (pipe(7)) a pipe takes them as a whole, so that standard output and
# standard error, which are often the same pipe, never mix within a line. A longer line goes alone.
BATCH = 4096
FLUSH_SECONDS = 2.0  # how long the end of the process waits for a reader

# pwritev2(2) with it writes or says that it would wait, whatever the file's own mode, which others share.
# Linux has it for pipes and sockets, not for terminals; -1: no such call here.
NOWAIT: int = getattr(os, "RWF_NOWAIT", -1)

Lost = Callable[[int], str]  # the number of lines that were dropped -> a line that says so, or ""


def lines_to(stream: TextIO) -> Lines:
    """The one writer of this stream's file."""
    file = _file(stream)
    if file is None:
        return Lines(stream)
    with _making:
        found = _writers.get(file)
        if found is None:
            found = _writers[file] = Lines(stream)
        return found


class Lines:
    """Whole lines to one stream, in order. `lost` may be set; it is called by whoever writes the next line.

    A stream in memory and a file on a disk have no reader to wait for, and are written at once.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost: Lost | None = None
        self._stream = stream
        self._disk = _disk(stream)
        self._file = _file(stream)
        self._queue: deque[bytes] = deque()
        self._direct = self._file is not None and NOWAIT >= 0
        self._bytes = 0  # waiting, or being written
        self._dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write_several(self, lines: Sequence[bytes]) -> None:
        """Lines with their ends, in as few writes as their reader allows."""
        if self._file is None:
            self._write_through(b"".join(lines))
            return
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if batch and size + len(line) > BATCH:
                self._take(b"".join(batch), len(batch))
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        self._take(b"".join(batch), len(batch))

    def write(self, line: str) -> None:
        """A line with its end. Never waits, never fails: a log must not fail what is logged."""
        if self._file is None:
            self._write_through(encoded(line))
            return
        self._take(encoded(line), 1)

    def _take(self, data: bytes, count: int) -> None:
        with self._changed:
            # Once full, up to half of it has to leave: else every other line would be about dropped ones.
            if self._bytes + len(data) > (QUEUE_LIMIT // 2 if self._dropped else QUEUE_LIMIT):
                self._dropped += count
                return
            dropped, self._dropped = self._dropped, 0
            self._put(data[self._at_once(data) :])
        if dropped and self.lost is not None:
            said = self.lost(dropped)
            with self._changed:
                self._put(encoded(said))

    def flush(self, seconds: float) -> bool:
        """Wait until everything has left; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, seconds)

    def _at_once(self, data: bytes) -> int:
        """How many bytes left without the thread, which costs a third of the small answers per second."""
        assert self._file is not None
        if self._bytes or len(data) > BATCH or not self._direct:
            return 0
        try:
            return os.pwritev(self._file, [data], -1, NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._direct = error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE)
            return len(data) if self._direct else 0  # a reader that went away: as in the thread

    def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush, FLUSH_SECONDS)
        self._queue.append(data)
        self._bytes += len(data)
        self._changed.notify_all()

    def _write_through(self, data: bytes) -> None:
        try:
            if self._disk is None:
                self._stream.write(data.decode())
                self._stream.flush()
            else:
                self._stream.flush()  # what others have printed
                _write_all(self._disk, data)
        except (OSError, ValueError, AttributeError):  # as above
            return

    def _run(self) -> None:
        """The thread: past the stream's own buffer, whose lock the end of the process would wait for."""
        assert self._file is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                batch = [self._queue.popleft()]
                size = len(batch[0])
                while self._queue and size + len(self._queue[0]) <= BATCH:
                    size += len(self._queue[0])
                    batch.append(self._queue.popleft())
            _write_all(self._file, b"".join(batch))
            with self._changed:
                self._bytes -= size
                self._changed.notify_all()


def encoded(text: str) -> bytes:
    """As it is written: what no encoding has is escaped."""
    return text.encode("utf-8", "backslashreplace")


def _write_all(file: int, data: bytes) -> None:
    """Write it however long that takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(file, view) :]
        except BlockingIOError:  # whoever started us gave a pipe that does not wait
            poll = select.poll()
            poll.register(file, select.POLLOUT)
            poll.poll()
        except OSError:  # a full disk, a reader that went away
            return


def _file(stream: TextIO) -> int | None:
    """The file descriptor, if writing to it may mean waiting for a reader."""
    file = _descriptor(stream)
    return None if file is None or stat.S_ISREG(os.fstat(file).st_mode) else file


def _disk(stream: TextIO) -> int | None:
    """The file descriptor of a file on a disk."""
    file = _descriptor(stream)
    return file if file is not None and stat.S_ISREG(os.fstat(file).st_mode) else None


def _descriptor(stream: TextIO) -> int | None:
    """None for a stream in memory, a closed one, and None, as of a process without it."""
    try:
        file = stream.fileno()
        os.fstat(file)
    except (OSError, ValueError, AttributeError):
        return None
    return file


_writers: dict[int, Lines] = {}  # by file descriptor
_making = threading.Lock()
