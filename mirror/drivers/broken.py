"""aiohttp's requests that got no answer, or no whole one, as the kinds that drivers.base has."""

from __future__ import annotations

import ssl

import aiohttp

from mirror.drivers.advice import LONGEST, untrusted
from mirror.drivers.base import UnreachableError

# What a request, or reading a body, raises.
BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


def broken(path: str, error: BaseException) -> UnreachableError:
    """The error of a request that got no answer, or no whole one."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return untrusted(path, error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UnreachableError(path, "the storage cannot be connected to")
    if isinstance(error, TimeoutError):
        return UnreachableError(path, "the storage does not answer in time")
    return UnreachableError(path, "the storage broke off")


def away(error: BaseException) -> str:
    """Which host there was no connection to, of an error and its causes; "": it is none of a connection."""
    at: BaseException | None = error
    for _ in range(LONGEST):
        if isinstance(at, aiohttp.ClientConnectorDNSError):
            return f"there is no host {at.host}, or no name server answers"
        if isinstance(at, aiohttp.ClientConnectorError):
            return f"{at.host} cannot be connected to"
        if at is None:
            break
        at = getattr(at, "inner_exception", None) or at.__cause__ or at.__context__
    return ""
