"""What the checks look at, with the registry's own words for what they find."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from mirror import outgoing
from mirror.health.checks import LIMIT, CheckError, Probe


def file(path: Path) -> Probe:
    """Fails while the file exists: an operator makes one to take a mirror out of rotation."""

    async def probe() -> None:
        try:
            await asyncio.to_thread(path.stat)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckError(f"stat {path}: {(error.strerror or 'failed').lower()}") from error
        raise CheckError("file exists")

    return probe


def http(
    client: Callable[[], aiohttp.ClientSession],
    uri: str,
    *,
    name: str,
    status: int,
    timeout: float,
    headers: Sequence[tuple[str, str]],
) -> Probe:
    """Fails unless HEAD is answered with this status, along redirects. `timeout` 0: LIMIT.

    `name` is the URI without what may be secret in it.
    """

    async def probe() -> None:
        try:
            found = await outgoing.ask(
                client(),
                "HEAD",
                uri,
                headers=headers,
                timeout=timeout or LIMIT,
                followed=outgoing.FOLLOWED_BY_HEAD,
            )
        except outgoing.OutgoingError as error:
            raise CheckError(f"error while checking: {name}") from error
        if found != status:
            raise CheckError(f"downstream service returned unexpected status: {found}")

    return probe


def tcp(host: str, port: int, *, name: str, timeout: float) -> Probe:
    """Fails unless a connection can be made. `timeout` 0: LIMIT."""

    async def probe() -> None:
        try:
            async with asyncio.timeout(timeout or LIMIT):
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:  # TimeoutError is one
            raise CheckError(f"connection to {name} failed") from error
        writer.close()

    return probe


def storage(look: Callable[[], Awaitable[str | None]]) -> Probe:
    """Fails when `look` says why the storage cannot be looked at."""

    async def probe() -> None:
        reason = await look()
        if reason is not None:
            raise CheckError(reason)

    return probe
