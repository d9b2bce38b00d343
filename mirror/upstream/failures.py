"""What goes wrong upstream, in a client's words: troubles of the way and answers that are refusals.

Texts are our own. They name the registry as `settings.public_name` has it, never an address, a port, a
query or a library's words; those stay in the cause, for the log. Docker Hub's hosts, which everybody knows
and none of which is `docker.io`, are named where it is called so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus

from mirror.oci.errors import ErrorCode
from mirror.registry import Corrupt, RateLimited, RegistryError, Unavailable
from mirror.upstream.hosts import HUB
from mirror.upstream.retry import retry_after

SAYS_LIMIT = 200  # characters of an upstream's own message that are passed on

_NOT_FOUND = {code.name: code for code in ErrorCode if code.status == HTTPStatus.NOT_FOUND}
_HUB_HOSTS = (f".{HUB}", ".docker.com")  # registry-1, auth; where layers come from
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S*")


class Trouble(Enum):
    """Why there was no (whole) answer: the status for our client, and the text."""

    REFUSED = (503, "{name} cannot be reached: {reason}")
    NAME = (503, "{name} cannot be reached: {reason} has no address in DNS")
    PROXY = (503, "{name} cannot be reached: the configured proxy refuses")
    UNTRUSTED = (503, "{name} cannot be reached: its certificate is not trusted")
    NOT_TLS = (503, "{name} cannot be reached: it does not speak TLS")
    TLS = (503, "{name} cannot be reached: no TLS connection")
    CROWDED = (503, "{name} cannot be reached: all connections to it are in use")
    CONNECT_TIMEOUT = (504, "{name} cannot be reached: no connection in time")
    FIRSTBYTE_TIMEOUT = (504, "{name} accepted the request and did not answer in time")
    STALLED = (504, "{name} stopped sending in the middle of an answer")
    BROKEN = (502, "{name} broke off the connection")
    NONSENSE = (502, "{name} answered with something that is not HTTP")
    REDIRECT = (502, "{name} sent a redirect that cannot be followed: {reason}")
    OVERSIZE = (502, "{name} answered with more than can be right: {reason}")
    ENCODED = (502, "{name} compressed an answer although it was asked not to")
    LOCAL = (503, "{name} cannot be asked: {reason}")  # our own configuration is in the way
    STOPPING = (503, "{name} cannot be asked: the mirror is stopping")
    SHUT = (503, "{name} is not asked for now: its last requests failed")  # a breaker is open

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text


# What comes before anything was asked, so that it says something of the origin, or of the way to it.
UNREACHED = frozenset(
    {
        Trouble.REFUSED,
        Trouble.NAME,
        Trouble.PROXY,
        Trouble.UNTRUSTED,
        Trouble.NOT_TLS,
        Trouble.TLS,
        Trouble.CONNECT_TIMEOUT,
    }
)
# What says that an origin does not work, or not for what it was asked.
FAILURES = UNREACHED | {Trouble.FIRSTBYTE_TIMEOUT, Trouble.STALLED, Trouble.BROKEN, Trouble.NONSENSE}
# What is wrong with one answer of an origin that does answer. All others are our own doing.
ANSWERS = frozenset({Trouble.REDIRECT, Trouble.OVERSIZE, Trouble.ENCODED})


class TransportError(Exception):
    """No usable answer came. Internal to this room: `from_trouble` makes what a client sees.

    `reason` is part of a client's text. For the log are `cause`, what happened in an operator's words,
    `hint`, what would help, and `host` (`host:port`), who was asked where that is known. `retry_after` is in
    seconds; `storage`: it was not the registry, but where that redirects to.
    """

    def __init__(
        self,
        trouble: Trouble,
        reason: str = "",
        *,
        cause: str = "",
        hint: str = "",
        host: str = "",
        retry_after: float | None = None,
        storage: bool = False,
    ) -> None:
        self.trouble = trouble
        self.reason = reason
        self.cause = cause or reason or trouble.name.lower()
        self.hint = hint
        self.host = host
        self.retry_after = retry_after
        self.storage = storage
        super().__init__(f"{trouble.name} {self.cause}".strip())


def from_trouble(error: TransportError, name: str) -> RegistryError:
    """The failure for a client; raise it `from` the transport's error."""
    called = f"the storage that {name} redirects to" if error.storage else name
    message = error.trouble.text.format(name=called, reason=error.reason or _reason(error, name))
    if error.trouble in (Trouble.OVERSIZE, Trouble.ENCODED):
        return Corrupt(message)
    return Unavailable(message, status=error.trouble.status, retry_after=error.retry_after)


def _reason(error: TransportError, name: str) -> str:
    """What stands in the text where nothing more is known."""
    if error.trouble is not Trouble.NAME:
        return "no connection"
    host = error.host.rpartition(":")[0]
    is_hubs = name.endswith(HUB) and host.endswith(_HUB_HOSTS)
    return host if is_hubs else "its name"


def from_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    name: str,
    missing: ErrorCode,
    what: str,
    with_credentials: bool,
    is_secret: Callable[[str], bool],
    elsewhere: bool = False,
) -> RegistryError:
    """The failure that a status other than the wanted one means.

    `missing` is the code for a 404 that says nothing better, `what` the thing asked for ("this blob");
    `elsewhere`: another host gave the answer, to which the registry had redirected. `is_secret`: whether the
    upstream's own words tell something that was sent to it in confidence; then they are not passed on.
    """
    code, says = _envelope(body, is_secret)
    wait = retry_after(headers.get("Retry-After"), datetime.now(UTC))
    if status in (404, 410):
        return RegistryError(_NOT_FOUND.get(code, missing), f"{name} does not have {what}{says}")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(f"{name} limits the rate of our requests{says}", retry_after=wait)
    if elsewhere and status in (401, 403):
        return Unavailable(f"the storage that {name} redirects to refuses with {status}", status=502)
    if status == HTTPStatus.UNAUTHORIZED:
        text = "refuses the configured credentials for" if with_credentials else "wants credentials for"
        return RegistryError(ErrorCode.UNAUTHORIZED, f"{name} {text} {what}{says}")
    if status in (402, 403, 451):
        return RegistryError(ErrorCode.DENIED, f"{name} denies access to {what}{says}")
    # Clients know 500 to 504; other 5xx (Cloudflare: 520 to 530) and the unexpected are a bad gateway.
    faithful = status if 500 <= status <= HTTPStatus.GATEWAY_TIMEOUT else 502
    return Unavailable(f"{name} answered {status} for {what}{says}", status=faithful, retry_after=wait)


def _envelope(body: bytes, is_secret: Callable[[str], bool]) -> tuple[str, str]:
    """(code, "; upstream says: ...") of an error body; empty where it is not the spec's envelope.

    A message is passed on only when it is printable, cut to its limit, and without queries of URLs, which
    may hold signatures.
    """
    try:
        first = json.loads(body)["errors"][0]
        code, message = str(first.get("code", "")), first.get("message", "")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "", ""
    if not isinstance(message, str) or not message.strip() or not message.isprintable():
        return code, ""
    if code in ErrorCode.__members__ and message.lower() == ErrorCode[code].message.lower():
        return code, ""  # the standard's words say nothing new
    if is_secret(message):
        return code, ""
    says = _QUERY.sub(r"\1", message.strip())[:SAYS_LIMIT]
    return code, f"; upstream says: {says}"
