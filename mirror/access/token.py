"""`auth.token`: JSON Web Tokens of a token server (distribution, "Token Authentication Specification").

1. A token's size is bounded by the header's before anything of it is read; nothing in it is unpacked.
2. The key is found first (`keys`), and says which signatures it can have made. What the token's header calls
   its algorithm must be one of these, and one that is configured: `none` never is, and a public key is never
   a shared secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from mirror.access import certificates
from mirror.access.base import AUTHORIZATION_LIMIT, Access
from mirror.access.keys import KeyNotTrustedError, Keys

LEEWAY = 60.0  # seconds that the token server's clock may differ from ours; distribution's
AUTOREDIRECT_PATH = "/auth/token"  # registry:3's
ALGORITHMS = ("EdDSA", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
# registry:3 takes these names too; no key that it reads could ever have made such a signature.
SHARED = ("HS256", "HS384", "HS512")

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
            raise TokenError(f"the token is not valid: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong with it, in words that show nothing of it."""
    match error:
        case jwt.InvalidSignatureError():
            return "its signature does not fit the key that it names"
        case jwt.InvalidAlgorithmError():
            return "its signature is of an algorithm that its key cannot have made, or that is not allowed"
        case jwt.MissingRequiredClaimError():
            return f"it has no {error.claim}"
        case jwt.InvalidAudienceError():
            return "it is for another service (aud) than auth.token.service"
        case jwt.InvalidIssuerError():
            return "it is of another issuer (iss) than auth.token.issuer"
        case jwt.DecodeError():
            return "it is no JSON Web Token"
        case UnsupportedAlgorithm() | x509.InvalidVersion() | x509.DuplicateExtension():
            return "a certificate in its header cannot be read"
    return "something in it is not of the known form"


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
