"""`auth.token`: who sends a token, and what is asked of who sends none (`token` says which tokens count).

1. A token that was verified is remembered by its hash; its times are looked at each time.
2. To verify one takes up to 5 ms where a chain of certificates comes along. That is done in threads, once for
   all who send the same token, each client in its turn (`checks`): bad tokens hold up nobody's answers.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable

from cachetools import TTLCache

from mirror.access.base import Allowed, Asked, Refused, challenge, scope
from mirror.access.checks import Busy, Turns, client_of
from mirror.access.token import AUTOREDIRECT_PATH, Claims, TokenError, Verifier
from mirror.coalesce import Coalescer
from mirror.oci.errors import ErrorCode

TOKENS = 4096  # verified ones that are remembered, each of about 1 KiB
WORKERS = 2  # threads that verify; one client has one of them
RETRY_AFTER = 2.0  # seconds
REMEMBERED = 300.0  # seconds, after which the signature and the certificates are looked at again

_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}\Z")


class Token:
    """An AccessController for tokens. `realm` "" is: made of the request's host and `path` (autoredirect)."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        realm: str,
        path: str = AUTOREDIRECT_PATH,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._realm, self._path = realm, path
        self._now = now
        self._tokens: TTLCache[bytes, Claims] = TTLCache(TOKENS, REMEMBERED)
        self._checks: Coalescer[bytes, Claims] = Coalescer()
        self._turns = Turns(WORKERS)

    async def authorize(self, asked: Asked) -> Allowed:
        """Raises Refused, with what the token lacks in its challenge (RFC 6750 §3.1).

        TOOMANYREQUESTS where too many tokens wait to be verified.
        """
        words = asked.authorization.split(" ")
        if len(words) != 2 or words[0].lower() != "bearer":
            raise Refused("no token was sent", [self._challenge(asked, "")])
        now = self._now()
        try:
            claims = await self._verified(words[1], asked.address)
            claims.check_time(now)
        except Busy:
            raise Refused(
                "too many tokens wait to be verified",
                code=ErrorCode.TOOMANYREQUESTS,
                message="too many tokens are being verified: try again in a moment",
                retry_after=RETRY_AFTER,
            ) from None
        except TokenError as error:
            raise Refused(str(error), [self._challenge(asked, "invalid_token")]) from error
        if not all(claims.covers(each) for each in asked.records):
            text = f"the token is not for {scope(asked.records)}"
            raise Refused(text, [self._challenge(asked, "insufficient_scope")])
        return Allowed(claims.subject, lambda: self._holds(claims))

    def _holds(self, claims: Claims) -> bool:
        try:
            claims.check_time(self._now())
        except TokenError:
            return False
        return True

    async def _verified(self, text: str, address: str) -> Claims:
        """Raises TokenError, and Busy."""
        key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        claims = self._tokens.get(key)
        return claims or await self._checks.run(key, lambda: self._verify(key, text, address))

    async def _verify(self, key: bytes, text: str, address: str) -> Claims:
        now = self._now()
        found: list[Claims] = []

        def work() -> bool:
            found.append(self._verifier.verify(text, now))
            return True

        await self._turns.run(client_of(address), work)
        claims = self._tokens[key] = found[0]
        return claims

    def _challenge(self, asked: Asked, error: str) -> str:
        parameters = {"realm": self._realm or self._redirected(asked), "service": self._verifier.service}
        if wanted := scope(asked.records):
            parameters["scope"] = wanted
        if error:
            parameters["error"] = error
        return challenge("Bearer", **parameters)

    def _redirected(self, asked: Asked) -> str:
        """The realm on the client's own way to us; whoever sends no plain host gets none of it back."""
        host = asked.host if _HOST.match(asked.host) else ""
        scheme = asked.scheme if asked.scheme in ("http", "https") else "https"
        return f"{scheme}://{host}{self._path}"

    async def close(self) -> None:
        """End the checks that wait."""
        await self._turns.close()
        await self._checks.close()
