"""Who we are to an upstream: somebody with a password, with an identity token, or nobody. And who knows."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login, an OAuth2 identity token (it goes before the login), both, or nothing: anonymous."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def has_login(self) -> bool:
        """Whether there are a name and a password; as in registry:2, one without the other is nothing."""
        return bool(self.username and self.password)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing secret to send."""
        return not self.has_login and not self.identity_token

    @property
    def basic(self) -> str:
        """The Authorization header of the login (RFC 7617); empty where there is none."""
        if not self.has_login:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credentials()


class Source(Protocol):
    """Where the credentials of an upstream come from."""

    async def get(self, host: str) -> Credentials:
        """Those for this host (`host` or `host:port`, as its URL has it). Raises Unavailable: not now."""

    def refused(self, credentials: Credentials) -> None:
        """The registry or its token server did not take these: ask again where that may help."""

    async def close(self) -> None:
        """End what runs. Safe to call twice."""


class Fixed:
    """Credentials that stand in the configuration."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def get(self, host: str) -> Credentials:
        """The same for every host: an upstream has its own configuration, and its own hosts only."""
        return self._credentials

    def refused(self, credentials: Credentials) -> None:
        """There are no others."""

    async def close(self) -> None:
        """Nothing runs."""
