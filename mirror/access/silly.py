"""`auth.silly`: whoever sends an Authorization header is in. For trying out clients, as in distribution."""

from __future__ import annotations

from mirror.access.base import Allowed, Asked, Refused, challenge

USER = "silly"


class Silly:
    """An AccessController that believes everybody."""

    def __init__(self, realm: str, service: str) -> None:
        self._realm, self._service = realm, service

    async def authorize(self, asked: Asked) -> Allowed:
        """Raises Refused for a request without the header."""
        if asked.authorization:
            return Allowed(USER)
        wanted = " ".join(f"{each.type}:{each.name}:{each.action}" for each in asked.records)
        parameters = {"scope": wanted} if wanted else {}
        line = challenge("Bearer", realm=self._realm, service=self._service, **parameters)
        raise Refused("no credentials were sent", [line])

    async def close(self) -> None:
        """Nothing runs."""
