"""aiohttp's requests that got no answer, or no whole one, as the kinds that drivers.base has."""

from __future__ import annotations

import ssl

import aiohttp

from mirror.drivers.advice import TLS, coded
from mirror.drivers.base import UnreachableError

# What a request, or reading a body, raises.
BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


def broken(path: str, error: BaseException) -> UnreachableError:
    """The error of a request that got no answer, or no whole one."""
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return coded(UnreachableError(path, "no trusted TLS connection to the storage"), TLS)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UnreachableError(path, "the storage cannot be connected to")
    if isinstance(error, TimeoutError):
        return UnreachableError(path, "the storage does not answer in time")
    return UnreachableError(path, "the storage broke off")
