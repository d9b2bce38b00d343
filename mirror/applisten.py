"""Where clients connect: a port, a Unix socket or systemd's, plain or in TLS."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web

from mirror.apperror import StartError
from mirror.config import Http, Limits
from mirror.confighosts import Address, SocketPath
from mirror.configlisten import tls_of
from mirror.server import connections, debug, limits, listening
from mirror.server.certificates import Certificates
from mirror.server.tlscontext import CertificateError

ADVICE = {
    errno.EADDRINUSE: "Stop what uses it, or choose another port.",
    errno.EACCES: "Ports below 1024 are for root: choose a higher one.",
    errno.EADDRNOTAVAIL: "No network interface of this machine has that address.",
}
SOCKET_ADVICE = {
    errno.EADDRINUSE: "Stop what answers there, or choose another path.",
    errno.EEXIST: "Remove that file, or choose another path.",
    errno.EACCES: "Its folder must be one that user {user} can write.",
    errno.ENOENT: "Make its folder.",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entrance:
    """What is ready before the application is: a certificate, and a socket unless it is a port."""

    http: Http
    certificates: Certificates | None
    given: socket.socket | None

    async def open(self, runner: web.AppRunner) -> str:
        """Accept connections; returns the address, with the port taken for port 0. Raises StartError."""
        if self.given is not None:
            await connections.Site(runner, listening=self.given, certificates=self.certificates).start()
            return _name(self.given)
        assert isinstance(self.http.addr, Address)
        host, port = self.http.addr.host, self.http.addr.port
        try:
            site = connections.Site(runner, host or None, port, certificates=self.certificates)
            await site.start()
        except OSError as error:
            raise _cannot_listen("http.addr", self.http.addr, error) from error
        return f"{host}:{site.port}"


def limits_of(said: Limits) -> limits.Limits:
    """What of `http.limits` holds before a request is known."""
    return limits.Limits(said.connections, said.perclient, said.headersize.bytes, said.headertimeout)


@asynccontextmanager
async def entrance(http: Http, environ: MutableMapping[str, str]) -> AsyncGenerator[Entrance, None]:
    """What is wanted of the system before anything is begun. At the end no connection may be left.

    A socket that systemd passes comes before `http.addr`, as in the registry. Raises StartError.
    """
    async with AsyncExitStack() as stack:
        certificates = None
        if (tls := tls_of(http.tls)) is not None:
            try:
                certificates = Certificates(tls)
            except CertificateError as error:
                raise StartError(f"{error.told()}.") from error
            await stack.enter_async_context(certificates.watched())
        try:
            given = listening.activated(environ)
        except listening.ActivationError as error:
            raise StartError(f"{error}.") from error
        if given is not None:
            log.info("listen.activated", detail="systemd's socket is used, and http.addr is not looked at")
            stack.enter_context(contextlib.closing(given))
        elif isinstance(http.addr, SocketPath):
            try:
                given = stack.enter_context(listening.at_path(http.addr.path))
            except OSError as error:
                raise _refused(str(http.addr), error, SOCKET_ADVICE) from error
        yield Entrance(http, certificates, given)


@asynccontextmanager
async def debugging(said: debug.Debug, address: Address | None) -> AsyncGenerator[None, None]:
    """The debug server, until the end of the block, if there is to be one. Raises StartError."""
    if address is None:
        yield
        return
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(debug.serving(said, address.host, address.port))
        except OSError as error:
            raise _cannot_listen("http.debug.addr", address, error) from error
        log.info("debug.started", addr=str(Address(address.host, port)))
        yield


def _cannot_listen(key: str, address: Address, error: OSError) -> StartError:
    if isinstance(error, socket.gaierror):
        return StartError(f"{key}: cannot listen on {address}: the name {address.host} has no address.")
    return _refused(str(address), error, ADVICE, key)


def _refused(address: str, error: OSError, known: dict[int, str], key: str = "http.addr") -> StartError:
    # A library's own words for it say more, and more than one line.
    reason = os.strerror(error.errno) if known is ADVICE and error.errno else error.strerror or str(error)
    advice = known.get(error.errno or 0, "Choose another address.").format(user=os.geteuid())
    return StartError(f"{key}: cannot listen on {address}: {reason}. {advice}")


def _name(given: socket.socket) -> str:
    address = given.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else f"unix:{address}"
