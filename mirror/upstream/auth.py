"""Authorization for one upstream: learns from its 401s, exchanges credentials for tokens, keeps the tokens.

1. Nothing is sent before a challenge asked for it, and there is no ping: the first request's 401 teaches.
2. A token is for one scope. It is kept until shortly before its end and shared by all requests; one exchange
   for a scope runs at a time, and everybody who wants that token gets its outcome.
3. Credentials go to the registry itself (Basic) and to a realm that `realms` trusts, to nobody else.
4. They are asked of their source when a challenge wants them, and are not kept here: the source knows for how
   long. Whoever refuses them is believed: the source hears of it, and what it says then is tried once.

Sources: distribution-spec's token specification ("Token Authentication Specification", "Docker Registry v2
authentication using OAuth2"), RFC 9110 §11, RFC 7617.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from cachetools import LRUCache
from yarl import URL

from mirror.oci import challenge
from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError, Unavailable
from mirror.upstream import exchange, realms, tokens
from mirror.upstream.confidential import Confidential
from mirror.upstream.credentials import ANONYMOUS, Credentials
from mirror.upstream.exchange import Bearer
from mirror.upstream.failures import from_answer
from mirror.upstream.fetch import Answer, Fetcher
from mirror.upstream.settings import Settings
from mirror.upstream.sources import source_of

TOKENS_SIZE = 16 << 20  # bytes of tokens that are kept: 2,000 of the longest in use, 300 of the longest taken
TOKEN_EXTRA = 4 << 10  # bytes at most that a kept token costs besides itself
REALM_LIMIT = 2 << 10  # characters of realm and service; no URL in use is half as long
VERDICTS = 64  # realms that were judged; an honest registry has one
TELL = 60.0  # seconds between two lines about a login that is refused
YOUNG = 10.0  # seconds; a token of this age that has too small a scope will not be given a larger one now

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants the credentials themselves."""


class Authenticator:
    """What to put into Authorization. `name` is how errors call the registry."""

    def __init__(self, settings: Settings, registry: URL, name: str, fetcher: Fetcher) -> None:
        self._realms = settings.realms
        self._source = source_of(settings)
        self._confidential = Confidential(settings)
        self._registry = registry
        self._host = host_of(registry)
        self._name = name
        self._server = f"the token server of {name}"
        self._fetcher = fetcher
        self._plan: Basic | Bearer | None = None  # what the last challenge asked for
        self._last = ANONYMOUS  # what the source said last
        self._tell_at = 0.0  # loop.time() from which on a refused login is worth a line again
        self._tokens: LRUCache[tuple[Bearer, str], tokens.Token] = LRUCache(TOKENS_SIZE, _size)
        self._exchanges: dict[tuple[Bearer, str], asyncio.Task[tokens.Token]] = {}
        self._verdicts: LRUCache[str, realms.Verdict] = LRUCache(VERDICTS)

    @property
    def has_credentials(self) -> bool:
        """Whether there was anything to send when credentials were last wanted."""
        return not self._last.is_empty

    def is_secret(self, text: str) -> bool:
        """Whether an upstream's text tells anything that was sent to it in confidence."""
        return self._confidential.is_told(text, (token.value for token in self._tokens.values()))

    async def authorization(self, scope: str) -> str | None:
        """The header's value for a request in this scope; None before any challenge, and for nobody's Basic.

        Raises RegistryError when there is no token to be had, or no word of the credentials' source.
        """
        match self._plan:
            case Bearer() as plan:
                return f"Bearer {(await self._token(plan, scope)).value}"
            case Basic():
                return (await self._credentials()).basic or None
            case None:
                return None

    def is_refusal(self, status: int, used: str | None) -> bool:
        """Whether this status refuses what was sent (`used`), so that `refused` may know better.

        ECR says 403 to a password that has expired ("Your authorization token has expired").
        """
        basic = used is not None and used.startswith("Basic ")
        return status == HTTPStatus.UNAUTHORIZED or (status == HTTPStatus.FORBIDDEN and basic)

    async def refused(self, scope: str, used: str | None, lines: Sequence[str]) -> bool:
        """Learn from a refusal of a request that was sent with `used`; whether another one is worth sending.

        Raises RegistryError (UNAUTHORIZED) when the challenge wants the credentials sent to a stranger.
        """
        challenges = challenge.parse(lines)
        plan = await self._choose(challenges) or self._plan
        known, self._plan = self._plan, plan
        if plan is None:
            return False
        if isinstance(plan, Basic):
            return await self._has_another_login(used)
        if self._last.is_empty:
            self._source.refused(self._last)  # by now there may be a login
        if used is None or plan != known:
            return True
        token = self._tokens.get((plan, scope))
        if token is None or used != f"Bearer {token.value}":
            return True  # somebody else has dropped or renewed it already
        young = asyncio.get_running_loop().time() - token.obtained < YOUNG
        if young and any(offer.parameters.get("error") == "insufficient_scope" for offer in challenges):
            return False
        del self._tokens[plan, scope]
        return True

    def tell_refused(self) -> None:
        """Say in the log that our login is refused, now and then: what is kept is refused to clients then."""
        now = asyncio.get_running_loop().time()
        if self.has_credentials and now >= self._tell_at:
            self._tell_at = now + TELL
            user = self._last.username or "by a token"
            _log.warning("upstream.login.refused", registry=self._registry.host, user=user, name=self._name)

    async def close(self) -> None:
        """End the exchanges that run, and what the credentials' source has running."""
        running = list(self._exchanges.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._source.close()

    async def _credentials(self) -> Credentials:
        """Who we are now. Raises Unavailable."""
        self._last = await self._source.get(self._host)
        self._confidential.learn(self._last)
        return self._last

    async def _has_another_login(self, used: str | None) -> bool:
        """Whether there is a login besides the one that was `used`."""
        if self._last.basic == (used or ""):
            self._source.refused(self._last)
        return (await self._credentials()).basic not in ("", used)

    async def _choose(self, challenges: Sequence[challenge.Challenge]) -> Basic | Bearer | None:
        """The way to authenticate: a token if possible, for it tells the least; else Basic; else none."""
        stranger = ""
        for offer in challenges:
            realm = offer.parameters.get("realm", "")
            service = offer.parameters.get("service", "")
            if offer.scheme != "bearer" or not realm or len(realm) + len(service) > REALM_LIMIT:
                continue
            verdict = await self._judge(realm)
            if verdict is realms.Verdict.TRUSTED:
                return Bearer(realm, service, trusted=True)
            if verdict is realms.Verdict.FOREIGN and (await self._credentials()).is_empty:
                # lscr.io sends to ghcr.io: an anonymous token tells nothing
                return Bearer(realm, service, trusted=False)
            stranger = stranger or realm
        if any(offer.scheme == "basic" for offer in challenges) and (
            not stranger or (await self._credentials()).has_login
        ):
            return Basic()
        if stranger:
            raise self._strange(stranger)
        return None

    async def _judge(self, realm: str) -> realms.Verdict:
        verdict = self._verdicts.get(realm)
        if verdict is None:
            verdict = await asyncio.to_thread(realms.judge, self._registry, realm, self._realms)
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
        credentials = await self._credentials() if plan.trusted else ANONYMOUS
        answer = await exchange.ask(self._fetcher, plan, scope, credentials, self._server)
        if exchange.refuses(answer.status, credentials):
            self._source.refused(credentials)
            if plan.trusted:
                fresh = await self._credentials()
                if fresh != credentials:
                    answer = await exchange.ask(self._fetcher, plan, scope, fresh, self._server)
            elif self._plan == plan:
                self._plan = None  # the next challenge is judged anew: there may be a login by then
        if answer.status != HTTPStatus.OK:
            raise self._failure(answer)
        try:
            token = exchange.token_in(answer, asyncio.get_running_loop().time())
        except tokens.TokenError as error:
            raise Unavailable(f"{self._server} is of no use: {error}", status=502) from error
        _log.debug("upstream.token.obtained", registry=self._registry.host, scope=scope)
        return token

    def _failure(self, answer: Answer) -> RegistryError:
        if answer.status in (401, 403):
            self.tell_refused()
        if answer.status in (400, 404, 405, 410):
            return Unavailable(f"{self._server} answered {answer.status}", status=502)
        return from_answer(
            answer.status,
            answer.headers,
            answer.body,
            name=self._server,
            missing=ErrorCode.NAME_UNKNOWN,
            what="a token",
            with_credentials=self.has_credentials,
            is_secret=self.is_secret,
            elsewhere=answer.elsewhere,
        )


def host_of(registry: URL) -> str:
    """`host` or `host:port`, as it is written: the name by which helpers and config.json know a registry."""
    host = registry.host_subcomponent or ""
    return f"{host}:{registry.explicit_port}" if registry.explicit_port else host


def _size(token: tokens.Token) -> int:
    return len(token.value) + TOKEN_EXTRA
