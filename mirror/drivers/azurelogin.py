"""A login at Azure by tokens: a service principal's, the pod's, the machine's. Both libraries use it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential

from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.broken import away

_REFUSED = re.compile(r"AADSTS[0-9]{1,10}")  # Entra's codes
SCOPE = "https://storage.azure.com/.default"

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from obstore.store import AzureCredential  # not there at run time


class TokenLogin:
    """What Microsoft's library takes for a credential. Nothing is asked before a token is wanted."""

    def __init__(self, settings: AzureSettings) -> None:
        self._credential = _credential(settings)
        self.trouble = ""  # why there was no token last, as far as it is known

    async def get_token(self, *scopes: str, **others: Any) -> AccessToken:
        """Raises ClientAuthenticationError without an answer: it is not the storage that has refused."""
        try:
            found = await self._credential.get_token(*scopes, **others)
        except AzureError as error:
            self.trouble = _why(error)
            raise ClientAuthenticationError("no token") from error
        self.trouble = ""
        return found

    async def for_obstore(self) -> AzureCredential:
        """What it calls whenever it wants a token. Raises PermissionError."""
        try:
            token = await self.get_token(SCOPE)
        except ClientAuthenticationError as error:
            raise PermissionError("no credential") from error
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    async def close(self) -> None:
        """Safe to call twice."""
        await self._credential.close()

    async def __aenter__(self) -> TokenLogin:
        return self

    async def __aexit__(self, *_of: object) -> None:
        await self.close()


def login(settings: AzureSettings) -> TokenLogin | None:
    """None: there is a key, or a signature of somebody who has one."""
    return None if settings.key or settings.shared_access else TokenLogin(settings)


def _why(error: BaseException) -> str:
    """In an operator's words, without anything secret; "": it is not known."""
    found = _REFUSED.search(str(error))
    if found is not None:
        return f"the login is refused ({found[0]})"
    return away(error)


def _credential(settings: AzureSettings) -> AsyncTokenCredential:
    """Without a secret the chain that registry:3 asks too: variables, a pod's identity, a machine's."""
    if settings.secret:
        return ClientSecretCredential(settings.tenant, settings.client, settings.secret)
    return DefaultAzureCredential()
