"""Who we are for Google: tokens, and signatures of URLs, by Google's own library, which waits in threads."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Mapping
from typing import Any

import google.auth
import requests
from google.auth import exceptions, iam
from google.auth.credentials import Signing
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from mirror.drivers.answers import line
from mirror.drivers.base import DeniedError, DriverError, UnreachableError

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
SIGNING_SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # where Google signs for us
WAIT = 10.0  # seconds for each answer of the token server, or of the machine's metadata
LIMIT = 30.0  # seconds for a token, or a signature, with all that is asked for it


class Login:
    """One for each driver. Without `key` it is found as Google's libraries do, when it is first needed."""

    def __init__(self, key: Mapping[str, object]) -> None:
        """Blocks: reads the key. Raises ValueError."""
        self._credentials: Any = None
        if key:
            make = service_account.Credentials.from_service_account_info
            self._credentials = make(dict(key), scopes=[SCOPE])  # type: ignore[no-untyped-call]
        self._session = requests.Session()
        self._request = functools.partial(Request(self._session), timeout=WAIT)
        self._turn = asyncio.Lock()

    async def token(self, path: str) -> str:
        """A bearer token; nothing waits while the last one is good. Raises DriverError."""
        if self._credentials is not None and self._credentials.valid:
            return str(self._credentials.token)
        async with self._turn:
            return str(await self._in_thread(path, self._fresh))

    async def sign(self, path: str, text: bytes) -> str:
        """In hexadecimal: of our key, or of Google for us. Raises DriverError."""
        return str(await self._in_thread(path, functools.partial(self._sign, text)))

    async def email(self, path: str) -> str:
        """Whose the signatures are; "": nobody's, so that there are none. Raises DriverError."""
        if self._credentials is None or not getattr(self._credentials, "service_account_email", None):
            await self.token(path)  # a machine learns its own name with its first token
        found = getattr(self._credentials, "service_account_email", None) or ""
        return "" if found == "default" else str(found)

    def close(self) -> None:
        """Safe to call twice."""
        self._session.close()

    def _fresh(self) -> str:
        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=[SCOPE, SIGNING_SCOPE])
        if not self._credentials.valid:
            self._credentials.refresh(self._request)
        return str(self._credentials.token)

    def _sign(self, text: bytes) -> str:
        if isinstance(self._credentials, Signing):
            signed: bytes = self._credentials.sign_bytes(text)  # type: ignore[no-untyped-call]
        else:
            email = self._credentials.service_account_email
            signed = iam.Signer(self._request, self._credentials, email).sign(text)  # type: ignore[no-untyped-call]
        return base64.b16encode(signed).decode().lower()

    async def _in_thread(self, path: str, work: Any) -> Any:
        try:
            async with asyncio.timeout(LIMIT):
                return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise UnreachableError(path, f"no token from Google within {LIMIT:g} s") from error
        except exceptions.TransportError as error:
            raise UnreachableError(path, "Google's token server cannot be reached") from error
        except exceptions.GoogleAuthError as error:
            raise DeniedError(path, f"Google gives no token: {_told(error)}") from error
        except (requests.RequestException, OSError, ValueError) as error:
            raise DriverError(path, f"no token from Google: {type(error).__name__}") from error


def _told(error: exceptions.GoogleAuthError) -> str:
    """Its first line: the rest may be a document."""
    return line(str(error.args[0] if error.args else type(error).__name__).partition("\n")[0])
