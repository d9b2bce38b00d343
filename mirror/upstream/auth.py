"""Authorization for one upstream: learns from its 401s, exchanges credentials for tokens, keeps the tokens.

1. Nothing is sent before a challenge asked for it, and there is no ping: the first request's 401 teaches.
2. A token is for one scope. It is kept until shortly before its end and shared by all requests; one exchange
   for a scope runs at a time, and everybody who wants that token gets its outcome.
3. Credentials go to the registry itself (Basic) and to a realm that `realms` trusts, to nobody else.

Sources: distribution-spec's token specification ("Token Authentication Specification", "Docker Registry v2
authentication using OAuth2"), RFC 9110 §11, RFC 7617.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus

import structlog
from cachetools import LRUCache
from yarl import URL

from mirror.oci import challenge
from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError, Unavailable
from mirror.upstream import realms, tokens
from mirror.upstream.failures import from_answer
from mirror.upstream.fetch import Answer, Call, Fetcher
from mirror.upstream.settings import Settings

TOKENS = 4096  # scopes whose tokens are kept: some 10 MiB with the longest tokens in use
VERDICTS = 64  # realms that were judged; an honest registry has one
TOKEN_BODY = 64 << 10  # bytes of a token server's answer
YOUNG = 10.0  # seconds; a token of this age that has too small a scope will not be given a larger one now
CLIENT_ID = "mirror"  # who we are to an OAuth2 token server

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants the credentials themselves."""

    header: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token from this realm. Made only for a realm that may see what there is to see."""

    realm: str
    service: str


class Authenticator:
    """What to put into Authorization. `name` is how errors call the registry."""

    def __init__(self, settings: Settings, registry: URL, name: str, fetcher: Fetcher) -> None:
        self._settings = settings
        self._registry = registry
        self._name = name
        self._server = f"the token server of {name}"
        self._fetcher = fetcher
        self._plan: Basic | Bearer | None = None  # what the last challenge asked for
        self._tokens: LRUCache[tuple[Bearer, str], tokens.Token] = LRUCache(TOKENS)
        self._exchanges: dict[tuple[Bearer, str], asyncio.Task[tokens.Token]] = {}
        self._verdicts: LRUCache[str, realms.Verdict] = LRUCache(VERDICTS)

    async def authorization(self, scope: str) -> str | None:
        """The header's value for a request in this scope; None before any challenge.

        Raises RegistryError when there is no token to be had.
        """
        match self._plan:
            case Bearer() as plan:
                return f"Bearer {(await self._token(plan, scope)).value}"
            case Basic(header):
                return header
            case None:
                return None

    @property
    def has_credentials(self) -> bool:
        """Whether there are credentials to send where a challenge asks for them."""
        return self._settings.has_credentials

    def is_refusal(self, status: int, used: str | None) -> bool:
        """Whether this status refuses what was sent (`used`), so that `refused` may know better.

        ECR says 403 to a password that has expired ("Your authorization token has expired").
        """
        basic = used is not None and used.startswith("Basic ")
        return status == HTTPStatus.UNAUTHORIZED or (status == HTTPStatus.FORBIDDEN and basic)

    async def refused(self, scope: str, used: str | None, lines: Sequence[str]) -> bool:
        """Learn from a 401 to a request that was sent with `used`; whether another one is worth sending.

        Raises RegistryError (UNAUTHORIZED) when the challenge wants the credentials sent to a stranger.
        """
        challenges = challenge.parse(lines)
        plan = await self._choose(challenges) or self._plan
        known, self._plan = self._plan, plan
        if plan is None:
            return False
        if used is None or plan != known:
            return True
        if isinstance(plan, Basic):
            return used != plan.header
        token = self._tokens.get((plan, scope))
        if token is None or used != f"Bearer {token.value}":
            return True  # somebody else has dropped or renewed it already
        young = asyncio.get_running_loop().time() - token.obtained < YOUNG
        if young and any(offer.parameters.get("error") == "insufficient_scope" for offer in challenges):
            return False
        del self._tokens[plan, scope]
        return True

    async def close(self) -> None:
        """End the exchanges that run."""
        running = list(self._exchanges.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _choose(self, challenges: Sequence[challenge.Challenge]) -> Basic | Bearer | None:
        """The way to authenticate: a token if possible, for it tells the least; else Basic; else none."""
        stranger = ""
        for offer in challenges:
            realm = offer.parameters.get("realm", "")
            if offer.scheme != "bearer" or not realm:
                continue
            verdict = await self._judge(realm)
            service = offer.parameters.get("service", "")
            if verdict is realms.Verdict.TRUSTED:
                return Bearer(realm, service)
            if verdict is realms.Verdict.FOREIGN and not self._settings.has_credentials:
                return Bearer(realm, service)  # lscr.io sends to ghcr.io: an anonymous token tells nothing
            stranger = stranger or realm
        if self._settings.has_login and any(offer.scheme == "basic" for offer in challenges):
            return Basic(self._basic())
        if stranger:
            raise self._strange(stranger)
        return None

    async def _judge(self, realm: str) -> realms.Verdict:
        verdict = self._verdicts.get(realm)
        if verdict is None:
            verdict = await asyncio.to_thread(realms.judge, self._registry, realm, self._settings.realms)
            self._verdicts[realm] = verdict
        return verdict

    def _strange(self, realm: str) -> RegistryError:
        if self._verdicts.get(realm) is realms.Verdict.REFUSED:
            text = f"{self._name} names a token server that is not asked: its address is not safe"
        else:
            text = (
                f"{self._name} wants the credentials sent to {realms.host_of(realm)}: "
                "they are not, unless proxy.realms lists that host"
            )
        _log.warning("upstream.realm.refused", registry=self._registry.host, realm=realm.partition("?")[0])
        return RegistryError(ErrorCode.UNAUTHORIZED, text)

    async def _token(self, plan: Bearer, scope: str) -> tokens.Token:
        """A usable token: kept, or from an exchange that is shared with all who want it now."""
        key = (plan, scope)
        token = self._tokens.get(key)
        if token is not None and token.usable(asyncio.get_running_loop().time()):
            return token
        task = self._exchanges.get(key)
        if task is None:
            task = asyncio.create_task(self._exchange(plan, scope), name=f"token for {scope}")
            self._exchanges[key] = task
            task.add_done_callback(lambda done: self._exchanged(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `close`, not this waiter
                raise Unavailable("the mirror is stopping") from None
            raise

    def _exchanged(self, key: tuple[Bearer, str], task: asyncio.Task[tokens.Token]) -> None:
        del self._exchanges[key]
        if not task.cancelled() and task.exception() is None:
            self._tokens[key] = task.result()

    async def _exchange(self, plan: Bearer, scope: str) -> tokens.Token:
        """Ask the token server. Raises RegistryError."""
        answer = None
        if self._settings.identity_token:
            answer = await self._fetcher.fetch(self._post(plan, scope), self._server)
        if answer is None or (answer.status in (404, 405) and self._settings.has_login):
            # Token servers without OAuth2 know GET only; a login can be sent that way, an identity token not.
            answer = await self._fetcher.fetch(self._get(plan, scope), self._server)
        if answer.status != HTTPStatus.OK:
            raise self._failure(answer)
        try:
            token = tokens.parse(answer.body, asyncio.get_running_loop().time(), _clock_of(answer))
        except tokens.TokenError as error:
            raise Unavailable(f"{self._server} is of no use: {error}", status=502) from error
        _log.debug("upstream.token.obtained", registry=self._registry.host, scope=scope)
        return token

    def _get(self, plan: Bearer, scope: str) -> Call:
        query = {"service": plan.service} if plan.service else {}
        query["scope"] = scope
        headers = {}
        if self._settings.has_login:
            query["account"] = self._settings.username
            headers["Authorization"] = self._basic()
        return Call("GET", URL(plan.realm).extend_query(query), headers, limit=TOKEN_BODY)

    def _post(self, plan: Bearer, scope: str) -> Call:
        form = {"grant_type": "refresh_token", "refresh_token": self._settings.identity_token}
        form |= {"client_id": CLIENT_ID, "service": plan.service, "scope": scope}
        return Call("POST", URL(plan.realm), data=form, limit=TOKEN_BODY)

    def _basic(self) -> str:
        login = f"{self._settings.username}:{self._settings.password}"
        return "Basic " + base64.b64encode(login.encode()).decode()

    def _failure(self, answer: Answer) -> RegistryError:
        if answer.status in (400, 404, 405, 410):
            return Unavailable(f"{self._server} answered {answer.status}", status=502)
        return from_answer(
            answer.status,
            answer.headers,
            answer.body,
            name=self._server,
            missing=ErrorCode.NAME_UNKNOWN,
            what="a token",
            with_credentials=self._settings.has_credentials,
            elsewhere=answer.elsewhere,
        )


def _clock_of(answer: Answer) -> datetime:
    """What the server took the time for, so that only its own clock dates its tokens."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):  # missing or no date
        return datetime.now(UTC)
