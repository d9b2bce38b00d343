"""What would help when a bucket cannot be looked at, in the words of the configuration.

A storage says what is wrong by a code of its own; which of the settings that means is the same for all.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from mirror.drivers.base import Advice, DeniedError, DriverError, UnreachableError

Error = TypeVar("Error", bound=DriverError)

# The reasons of an UnreachableError.
TLS = "TLS"  # no trusted connection can be made
PLAIN = "plain"  # the port answers TLS in the clear
# What OpenSSL says then.
SPEAKS_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
LONGEST = 10  # errors that are looked at, each the cause of the one before


class Fault(enum.Enum):
    """What is wrong; the value says what to do about it."""

    LOGIN = "it does not know this login: see {login}"
    SIGNATURE = (
        "the secret does not belong to the login, or a proxy in between changes requests: see {signature}"
    )
    ENDED = "the login has ended: give another one, see {login}"
    NO_LOGIN = "there is no login, or none can be had now: see {login}"
    RIGHT = "the login may not list the {kind}: give it the rights of docs/configuration.md, or see {login}"
    FIREWALL = (
        "the login may not list the {kind}, or the account's firewall keeps this machine out: "
        "give it the rights of docs/configuration.md, or see {login}"
    )
    BUCKET = "there is no such {kind}: make it, or see {bucket}"
    REGION = "the {kind} is in another region: see {region}"
    CLOCK = "the clocks of this machine and of the storage differ: set this one right"
    ENDPOINT = "what answers there has no such {kind}, or is no such storage: see {bucket} and {endpoint}"
    OTHER = "see {endpoint} (MinIO's console is on another port than its API)"
    BROKEN = "it fails, or is no such storage: see its own log, and {endpoint}"
    AWAY = "see whether it runs, whether this machine reaches it, and {endpoint}"
    PLAIN = "the port answers without TLS: write {plain}"
    CERTIFICATE = "give this machine the CA of its certificate, or see {endpoint}"


@dataclass(frozen=True, slots=True)
class Place:
    """`bucket`, a `bucket NAME` or `container NAME`, at `url`.

    `keys`: what the settings are called, by the words in the texts of faults.
    """

    bucket: str
    url: str
    keys: Mapping[str, str]

    def advice(self, fault: Fault) -> Advice:
        """As Remote.advice."""
        words = {**self.keys, "kind": self.bucket.partition(" ")[0]}
        return Advice(f"{self.bucket} at {_shown(self.url)}", fault.value.format_map(words))


def keys_of(section: str, **names: str) -> dict[str, str]:
    """Of a section of `storage`: names of settings, several with spaces between."""
    return {
        word: _listed([f"storage.{section}.{name}" for name in found.split()])
        for word, found in names.items()
    }


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def fault_of(error: DriverError, codes: Mapping[str, Fault]) -> Fault:
    """By the storage's code, else by the kind of failure."""
    found = codes.get(error.reason)
    if found is not None:
        return found
    if isinstance(error, UnreachableError):
        if error.reason == TLS:
            return Fault.CERTIFICATE
        if error.reason == PLAIN:
            return Fault.PLAIN
        return Fault.BROKEN if error.reason else Fault.AWAY
    if isinstance(error, DeniedError):
        return Fault.RIGHT if error.reason else Fault.NO_LOGIN
    return Fault.ENDPOINT


def untrusted(path: str, error: BaseException) -> UnreachableError:
    """The error of a TLS connection that was not made."""
    at: BaseException | None = error
    for _ in range(LONGEST):
        if isinstance(at, ssl.SSLError) and getattr(at, "reason", None) in SPEAKS_PLAIN:
            return coded(UnreachableError(path, "the storage answers without TLS"), PLAIN)
        at = None if at is None else at.__cause__ or at.__context__
    return coded(UnreachableError(path, "no trusted TLS connection to the storage"), TLS)


def _shown(url: str) -> str:
    """Without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}" if host else url.partition("?")[0]


def coded(error: Error, reason: str) -> Error:
    """With the storage's code."""
    error.reason = reason
    return error
