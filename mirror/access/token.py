"""`auth.token`: JSON Web Tokens of a token server (distribution, "Token Authentication Specification").

1. A token's size is bounded by the header's before anything of it is read; nothing in it is unpacked.
2. The key is found first (`keys`), and says which signatures it can have made. What the token's header calls
   its algorithm must be one of these, and one that is configured: `none` never is, and a public key is never
   a shared secret.
3. A token that was verified is remembered by its hash; its times are looked at each time.
4. To verify one takes up to 5 ms where a chain of certificates comes along. That is done in threads, once for
   all who send the same token, each client in its turn (`checks`): bad tokens hold up nobody's answers.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from cachetools import TTLCache
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from mirror.access import certificates
from mirror.access.base import AUTHORIZATION_LIMIT, Access, Allowed, Asked, Refused, challenge, scope
from mirror.access.checks import Busy, Turns, client_of
from mirror.access.keys import KeyNotTrustedError, Keys
from mirror.coalesce import Coalescer
from mirror.oci.errors import ErrorCode

LEEWAY = 60.0  # seconds that the token server's clock may differ from ours; distribution's
TOKENS = 4096  # verified ones that are remembered, each of about 1 KiB
WORKERS = 2  # threads that verify; one client has one of them
RETRY_AFTER = 2.0  # seconds
REMEMBERED = 300.0  # seconds, after which the signature and the certificates are looked at again
AUTOREDIRECT_PATH = "/auth/token"  # registry:3's
ALGORITHMS = ("EdDSA", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
# registry:3 takes these names too; no key that it reads could ever have made such a signature.
SHARED = ("HS256", "HS384", "HS512")

_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}\Z")
# What PyJWT and cryptography raise about tokens, keys and certificates of somebody's making.
_MALFORMED = (
    *(jwt.PyJWTError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension),
    *(ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError),
)


class TokenError(ValueError):
    """Not a token that counts here; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Times are in seconds since 1970; `access`: actions by (type, name)."""

    subject: str
    not_before: float
    expires: float
    access: Mapping[tuple[str, str], frozenset[str]]

    def check_time(self, now: float) -> None:
        """Raises TokenError outside of its time."""
        if now > self.expires + LEEWAY:
            raise TokenError("the token has expired")
        if now < self.not_before - LEEWAY:
            raise TokenError("the token is not valid yet")

    def covers(self, wanted: Access) -> bool:
        """Whether it gives leave for this."""
        actions = self.access.get((wanted.type, wanted.name), frozenset())
        return wanted.action in actions or "*" in actions


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a token must be: signed by one of `keys`, from `issuer`, for `service`."""

    keys: Keys
    issuer: str
    service: str
    algorithms: Sequence[str] = ALGORITHMS

    def verify(self, text: str, now: float) -> Claims:
        """Raises TokenError, and nothing else. Times are not looked at, but for those of certificates."""
        if len(text) > AUTHORIZATION_LIMIT:
            raise TokenError("the token is too long")
        try:
            header = jwt.get_unverified_header(text)
            if "crit" in header:  # RFC 7515 §4.1.11: what is not understood must not be accepted
                raise TokenError("the token's header wants what is not known here")
            key = self.keys.find(header, datetime.fromtimestamp(now, UTC))
            claims = jwt.decode(
                text,
                key,
                algorithms=[each for each in certificates.algorithms(key) if each in self.algorithms],
                audience=self.service,
                issuer=self.issuer,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,  # `check_time`
                    "verify_nbf": False,
                    "verify_iat": False,  # distribution does not look at these three
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
            return _claims(claims)
        except (TokenError, KeyNotTrustedError) as error:
            raise TokenError(str(error)) from error
        except _MALFORMED as error:
            raise TokenError(f"the token is not valid ({type(error).__name__})") from error


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


def _claims(document: Mapping[str, Any]) -> Claims:
    """Raises TokenError, and what odd values raise."""
    subject = document.get("sub")
    access: dict[tuple[str, str], frozenset[str]] = {}
    for entry in document.get("access") or ():
        thing = (entry["type"], entry["name"])
        actions = entry.get("actions") or ()
        if not all(isinstance(each, str) for each in (*thing, *actions)) or isinstance(actions, str):
            raise TokenError("the token's access is not of the known form")
        access[thing] = access.get(thing, frozenset()) | frozenset(actions)
    return Claims(
        subject[:255] if isinstance(subject, str) else "",
        _seconds(document.get("nbf") or 0),
        _seconds(document["exp"]),
        access,
    )


def _seconds(value: object) -> float:
    """A NumericDate (RFC 7519 §2). Raises TokenError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise TokenError("a time in the token is not a number of seconds")
    return float(value)
