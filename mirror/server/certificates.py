"""The server's certificate, read anew when its files change.

A connection keeps what it was begun with; the next one gets what is there then. A new pair that cannot be
used changes nothing: the old one stays, and the log says which file is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from mirror.server.tls import Threads
from mirror.server.tlscontext import CertificateError, Tls, build, doubts
from mirror.sometimes import Sometimes

LOOK_INTERVAL = 5.0  # seconds between two looks at the files; certbot and kubelet write them once in weeks
LOG_INTERVAL = 10.0  # seconds between two lines about the same trouble
REASONS = 64  # kinds of failed handshakes that are counted apart; OpenSSL has a few hundred reasons
OTHER = "other"

Looked = tuple[tuple[int, ...], ...]  # what a file is known by: not its content, which costs reading it
_NOTHING: tuple[Looked, str] = ((), "")  # no files, and nothing wrong with them

log = structlog.get_logger()


class Certificates:
    """The context for the next handshake. Blocks while it is made. Raises CertificateError then."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._looked = self._look()
        self.context = build(tls)
        self.threads = Threads()
        self.handshakes_failed: Counter[str] = Counter()  # by reason
        self._doubtful = self._told = _NOTHING  # what could not be used at the last look, and was told of
        self._refused = Sometimes(LOG_INTERVAL)

    @asynccontextmanager
    async def watched(self, interval: float = LOOK_INTERVAL) -> AsyncIterator[None]:
        """Read the files anew when they change. At the end of the block no connection may be left."""
        watching = asyncio.create_task(self._watch(interval))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self.threads.close()

    def failed(self, remote: object, reason: str, *, certificate: bool) -> None:
        """A handshake came to nothing: daily traffic (scanners, port checks), so no error, but counted."""
        known = reason in self.handshakes_failed or len(self.handshakes_failed) < REASONS
        self.handshakes_failed[reason if known else OTHER] += 1
        log.debug("client.tls.failed", remote=remote, reason=reason)
        # NB: where certificates are wanted, a client without one is what people will look for in the log.
        count = self._refused.count(time.monotonic()) if certificate and self._tls.client_cas else 0
        if count:
            log.info("client.certificate.refused", remote=remote, reason=reason, count=count)

    async def _watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await asyncio.to_thread(self._look_again)
            except Exception:  # a defect: told whole, and the old certificate goes on
                log.exception("tls.not_reloaded")

    def _look_again(self) -> None:
        """What changed is loaded. What cannot be used is told at the second look at it, once: two files are
        written one after the other, and in between they do not fit. It is tried again as long as it is there:
        what could not be opened now can be later, and no file has changed by then."""
        found = self._look()
        if found == self._looked:
            return
        try:
            context = build(self._tls)
        except CertificateError as error:
            doubtful = found, error.told()
            if doubtful == self._doubtful and doubtful != self._told:
                self._told = doubtful
                log.error("tls.not_reloaded", path=str(error.path or ""), reason=error.told())
            self._doubtful = doubtful
            return
        self._looked, self._doubtful, self._told = found, _NOTHING, _NOTHING
        self.context = context
        log.info("tls.reloaded", certificate=str(self._tls.certificate))
        for reason in doubts(self._tls.certificate, datetime.now(UTC)):
            log.warning("tls.doubtful", path=str(self._tls.certificate), reason=reason)

    def _look(self) -> Looked:
        return tuple(
            _known_by(path) for path in (self._tls.certificate, self._tls.key, *self._tls.client_cas)
        )


def _known_by(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()  # of what a link leads to: kubelet swaps links
    except OSError as error:
        return (error.errno or -1,)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
