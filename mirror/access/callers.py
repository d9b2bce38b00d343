"""`proxy.rights: caller`: each who asks is given what the registry itself would give him, and nothing else.

1. Before anything of a repository is given, kept or not, its registry is asked with the caller's own
   credentials: one HEAD of what he asks for. What it answers is what he is told, in words of ours.
2. A yes holds for GRANTED, for these credentials and this repository. A no for DENIED, so that somebody who
   tries a hundred times asks once.
3. Nothing that is kept here takes part in the decision: neither an answer nor the time that it takes says
   what is here. When the registry cannot be asked, whoever has no yes is told so, for every name alike.
4. Credentials are kept as keyed hashes whose key dies with the process. They are sent to that registry alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from cachetools import LRUCache, TTLCache

from mirror.access.base import Allowed, Asked, Refused, challenge
from mirror.access.checks import client_of
from mirror.coalesce import Coalescer
from mirror.oci import challenge as challenges
from mirror.oci.challenge import Said
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository

GRANTED = 60.0  # seconds
DENIED = 5.0
QUESTIONS = 16  # at a time; a registry's connections are needed for what those who may have it want
QUESTIONS_EACH = 8  # of these, of one client: what he asks may take long, on purpose too
WAITING = 256  # with those; the next is told to come back
WAITING_EACH = 128  # of these, of one client: who makes up credentials keeps nobody else out
RETRY_AFTER = 2.0
GRANTS = 16384  # of both; the oldest goes, and is asked again
BASES = 256  # registries whose way to log in is remembered; of configured names there are fewer
PARAMETERS = ("realm", "service", "scope", "error")  # of a challenge that are passed on

Whose = Repository | str  # a repository, or a registry's namespace: its `/v2/`
# (whose, what of it, the caller's header) -> what the registry says; 503 for nothing.
Ask = Callable[[Whose, str, str], Awaitable[Said]]

_MISSING = {"manifests": ErrorCode.MANIFEST_UNKNOWN, "blobs": ErrorCode.BLOB_UNKNOWN}
_Key = tuple[bytes, Whose]


class Callers:
    """An AccessController that asks the registries. `applies`: to whose."""

    def __init__(
        self,
        applies: Callable[[Whose], bool],
        ask: Ask,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._applies = applies
        self._ask = ask
        self._now = now
        self._secret = secrets.token_bytes(32)
        self._grants: TTLCache[_Key, bool] = TTLCache(GRANTS, GRANTED, timer=now)
        self._denials: TTLCache[_Key, Said] = TTLCache(GRANTS, DENIED, timer=now)
        self._asking: Coalescer[tuple[_Key, str], Said] = Coalescer()
        self._turns = asyncio.Semaphore(QUESTIONS)
        self._waiting: Counter[str] = Counter()  # questions under way, by the client that began them
        self._turns_of: dict[str, asyncio.Semaphore] = {}  # of each client that has any
        self._bases: LRUCache[str, Said] = LRUCache(BASES)  # registries' last challenges at `/v2/`

    async def authorize(self, asked: Asked) -> Allowed:
        """Raises Refused: UNAUTHORIZED, DENIED, what is missing, TOOMANYREQUESTS, UNAVAILABLE."""
        if not self._concerns(asked):
            return Allowed()
        key = (self._hashed(asked.authorization), _whose(asked))
        if not self._grants.get(key):
            said = self._denials.get(key) or await self._asked(key, asked)
            if not 200 <= said.status < 300:
                raise self._refusal(said, asked)
        return Allowed("", lambda: self._grants.get(key, False))

    def _concerns(self, asked: Asked) -> bool:
        if asked.repository is None:
            # NB: not the catalog, which is filtered, nor what is not served here.
            return bool(asked.namespace) and self._applies(asked.namespace)
        return bool(asked.target) and self._applies(asked.repository)

    async def _asked(self, key: _Key, asked: Asked) -> Said:
        """What the registry says, asked once for all who ask the same at the same time."""

        client, question = client_of(asked.address), (key, asked.target)
        whose = _whose(asked)

        async def ask() -> Said:
            try:
                async with self._turns_of[client], self._turns:
                    said = await self._ask(whose, asked.target, _sendable(asked.authorization))
            finally:  # NB: not when who asked has left: the question goes on
                self._waiting[client] -= 1
                if not self._waiting[client]:
                    del self._waiting[client], self._turns_of[client]
            if 200 <= said.status < 300:
                self._grants[key] = True
            elif said.status in (401, 403):
                self._denials[key] = said
            if isinstance(whose, str) and said.challenges:
                self._bases[whose] = said
            return said

        if not self._asking.is_running(question):
            if self._waiting.total() >= WAITING or self._waiting.get(client, 0) >= WAITING_EACH:
                return Said(429, retry_after=RETRY_AFTER)
            self._waiting[client] += 1
            self._turns_of.setdefault(client, asyncio.Semaphore(QUESTIONS_EACH))
        said = await self._asking.run(question, ask)
        if said.status >= 500 and isinstance(whose, str) and not asked.authorization:
            # How to log in does not change because the registry is away.
            return self._bases.get(whose, said)
        return said

    def _refusal(self, said: Said, asked: Asked) -> Refused:
        reason = f"the registry answers {said.status} to the client's own credentials"
        if said.status == 401:
            return Refused(reason, _passed_on(said))
        if said.status == 403:
            text = "the registry denies access with the credentials that were sent"
            return Refused(reason, code=ErrorCode.DENIED, message=text)
        if said.status == 404:
            code = _MISSING.get(asked.target.partition("/")[0], ErrorCode.NAME_UNKNOWN)
            return Refused(reason, code=code, message="the registry has no such thing for this client")
        if said.status == 429:
            text = "the registry is asked too often what clients may have: try again in a moment"
            return Refused(reason, code=ErrorCode.TOOMANYREQUESTS, message=text, retry_after=said.retry_after)
        # NB: one text, whatever went wrong: it might tell what others have asked for.
        text = "the registry cannot be asked now whether this client may have it"
        return Refused(reason, code=ErrorCode.UNAVAILABLE, message=text)

    def _hashed(self, authorization: str) -> bytes:
        text = authorization.encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).digest()

    async def close(self) -> None:
        """End the questions under way."""
        await self._asking.close()


def _whose(asked: Asked) -> Whose:
    return asked.namespace if asked.repository is None else asked.repository


def _sendable(authorization: str) -> str:
    """What can be sent at all; the rest is no login of anybody's."""
    return authorization if authorization.isascii() and authorization.isprintable() else ""


def _passed_on(said: Said) -> list[str]:
    """The registry's challenges, written anew: what a client can answer, and nothing else."""
    lines = []
    for offer in challenges.parse(said.challenges):
        known = {name: offer.parameters[name] for name in PARAMETERS if name in offer.parameters}
        if offer.scheme in ("basic", "bearer") and known.get("realm"):
            lines.append(challenge(offer.scheme.capitalize(), **known))
    return lines
