"""One exchange of credentials for a token: the request, and what its answer means.

Sources: distribution-spec's token specification ("Token Authentication Specification", "Docker Registry v2
authentication using OAuth2").
"""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime

from yarl import URL

from mirror.upstream import tokens
from mirror.upstream.credentials import Credentials
from mirror.upstream.fetch import Answer, Call, Fetcher

TOKEN_BODY = 64 << 10  # bytes of a token server's answer
CLIENT_ID = "mirror"  # who we are to an OAuth2 token server


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token from this realm. Only one that is `trusted` is ever told who we are."""

    realm: str
    service: str
    trusted: bool


async def ask(fetcher: Fetcher, plan: Bearer, scope: str, credentials: Credentials, name: str) -> Answer:
    """The token server's answer, whatever it is; errors call the server `name`. Raises RegistryError."""
    if credentials.identity_token:
        answer = await fetcher.fetch(_post(plan, scope, credentials), name)
        if answer.status not in (404, 405) or not credentials.has_login:
            return answer
        # Token servers without OAuth2 know GET only; a login can be sent that way, an identity token not.
    return await fetcher.fetch(_get(plan, scope, credentials), name)


def refuses(status: int, credentials: Credentials) -> bool:
    """Whether a status is about who asked. ghcr.io says 403, OAuth2 servers 400 (RFC 6749 §5.2)."""
    return status in (401, 403) or (status == 400 and bool(credentials.identity_token))


def token_in(answer: Answer, now: float) -> tokens.Token:
    """The token in a success; `now` as in `loop.time()`. Raises TokenError."""
    return tokens.parse(answer.body, now, _clock_of(answer))


def _has_token(answer: Answer) -> bool:
    try:
        token_in(answer, 0.0)
    except tokens.TokenError:
        return False
    return True


def _get(plan: Bearer, scope: str, credentials: Credentials) -> Call:
    query = {"service": plan.service} if plan.service else {}
    query["scope"] = scope
    headers = {}
    if credentials.has_login:
        query["account"] = credentials.username
        headers["Authorization"] = credentials.basic
    return Call(
        "GET", URL(plan.realm).extend_query(query), headers, limit=TOKEN_BODY, scope=scope, useful=_has_token
    )


def _post(plan: Bearer, scope: str, credentials: Credentials) -> Call:
    form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
    form |= {"client_id": CLIENT_ID, "service": plan.service, "scope": scope}
    return Call("POST", URL(plan.realm), data=form, limit=TOKEN_BODY, scope=scope, useful=_has_token)


def _clock_of(answer: Answer) -> datetime:
    """What the server took the time for, so that only its own clock dates its tokens."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):  # missing or no date
        return datetime.now(UTC)
