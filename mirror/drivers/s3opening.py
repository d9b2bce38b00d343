"""The way to one bucket: a login, and the clients made with it, once; what fails is not tried at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from botocore import exceptions as boto

from mirror.drivers.base import DeniedError, DriverError, UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.s3errors import ERRORS, failure, unusable
from mirror.drivers.s3session import S3Session

LOGIN = 30.0  # seconds that finding a login may take, or fetching it anew
OPENING = 5.0  # seconds between two attempts to find a login
DENIED_PAUSE = 60.0  # seconds after a refused login: more of them may get the user locked out


class S3Opening:
    """The clients, None before `open`: `operations`, and `readers` of bodies, of so many connections."""

    def __init__(self, session: S3Session, breaker: Breaker, connections: int, readers: int) -> None:
        self.operations: Any = None
        self.readers: Any = None
        self._signer: Any = None
        self._session = session
        self._breaker = breaker
        self._sizes = connections, readers
        self._lock = asyncio.Lock()
        self._denied: tuple[float, DeniedError] | None = None  # until when (monotonic) no login is tried
        self._unopened: tuple[float, type[DriverError], str] | None = None  # until when, and why
        self._closed = False

    async def open(self, path: str = "") -> None:
        """Make the clients, if they are not there. They connect when they are asked.

        Raises DeniedError, UnreachableError: no login can be had now; DriverError: a setting cannot be.
        """
        async with self._lock:
            if self.operations is not None or self._closed:
                return
            await self._log_in()
            if self._unopened is not None and time.monotonic() < self._unopened[0]:
                raise self._unopened[1](path, self._unopened[2])
            try:
                async with asyncio.timeout(LOGIN):  # a login may be asked for
                    await self._make_all()
            except TimeoutError as error:
                raise self._failed_to_open(UnreachableError(path, f"no login within {LOGIN:g} s")) from error
            except (*ERRORS, ValueError) as error:
                raise self._failed_to_open(unusable(path, error)) from error

    async def _make_all(self) -> None:
        session, settings = self._session, self._session.settings
        operations, readers = [await session.make(size) for size in self._sizes]
        endpoint = settings.redirect_endpoint
        signer = await session.make(1, endpoint) if endpoint else operations
        # NB: a client that was made without a login never gets one.
        if not settings.access_key:
            try:
                await session.credentials()
            except boto.NoCredentialsError:
                await session.close()
                raise
        self.operations, self.readers, self._signer = operations, readers, signer

    def _failed_to_open(self, error: DriverError) -> DriverError:
        """It is not tried again at once: a chain that has no login takes seconds to say so."""
        self._unopened = time.monotonic() + OPENING, type(error), error.cause
        return error

    async def _log_in(self) -> None:
        """Ask for the keys, where that is to be done and was not. Raises DriverError."""
        settings = self._session.settings
        if settings.login is None or settings.access_key:
            return
        if self._denied is not None and time.monotonic() < self._denied[0]:
            raise DeniedError("", self._denied[1].cause)
        self._breaker.check("")
        try:
            keys = await settings.login.keys()
        except DriverError as error:
            self._breaker.failed(error.cause, error.reason)
            if isinstance(error, DeniedError):
                self._denied = time.monotonic() + DENIED_PAUSE, error
            raise
        self._session.take(keys)

    async def signer(self, path: str) -> Any:
        """What signs URLs for the bucket's own region, as far as that is known. Within `fetching`.

        Raises DriverError, and what `fetching` is for.
        """
        if self._signer is None:
            await self.open(path)
        self.check(path)
        if self._is_elsewhere():
            async with self._lock:
                if self._is_elsewhere():
                    session = self._session
                    self._signer = await session.make(1, session.settings.redirect_endpoint, session.region)
            self.check(path)  # it may have been closed meanwhile
        return self._signer

    def _is_elsewhere(self) -> bool:
        region = self._session.region
        return bool(region) and self._signer is not None and self._signer.meta.region_name != region

    def check(self, path: str) -> None:
        """Raises UnreachableError: it is closed."""
        if self._closed:
            raise UnreachableError(path, "the driver is closed")

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        self._closed = True
        await self._session.close()
        self.operations = self.readers = self._signer = None


@asynccontextmanager
async def fetching(path: str) -> AsyncGenerator[None, None]:
    """Where credentials may be fetched anew. Raises DriverError."""
    try:
        async with asyncio.timeout(LOGIN):
            yield
    except TimeoutError as error:
        raise UnreachableError(path, f"no credentials within {LOGIN:g} s") from error
    except ERRORS as error:
        raise failure(path, error) from error
