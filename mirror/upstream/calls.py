"""Requests to one registry with authentication: what the verbs of `client` are made of."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, NoReturn

import structlog
from yarl import URL

from mirror.oci.challenge import Said
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import ACCEPT
from mirror.oci.names import Repository
from mirror.registry import Condition, RateLimited, Unavailable
from mirror.upstream.auth import Authenticator
from mirror.upstream.causes import address
from mirror.upstream.failures import TransportError, from_answer, from_trouble
from mirror.upstream.fetch import Answer, Call, Fetcher
from mirror.upstream.fields import is_of_manifest, is_page
from mirror.upstream.heads import REFUSALS
from mirror.upstream.health import Health
from mirror.upstream.lookups import Lookups
from mirror.upstream.ranges import Ranges
from mirror.upstream.redirects import as_written
from mirror.upstream.retry import retry_after
from mirror.upstream.settings import Settings, public_name, registry_url
from mirror.upstream.traffic import Traffic
from mirror.upstream.transport import Transport

LIST = "tags/list"
# Connections that are to be ready for an image's blobs, at the registry and at its storage: as many as
# dockerd and containerd's CRI ask for at once, config and three layers; podman asks for six.
READY = 4
# HEAD of a manifest is refused by these as a method, and not to this caller.
_METHOD_REFUSED = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
)

_PAGE = Said(HTTPStatus.FORBIDDEN)  # what a success means that is not what was asked for

_log = structlog.get_logger()


class Calls:
    """The way to one upstream. `name` is how errors call it; `now` is the clock of breakers and quota."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float],
        lookups: Lookups | None,
        traffic: Traffic | None = None,
    ) -> None:
        self._base = registry_url(settings.remoteurl)
        self._secret = secrets.token_bytes(32)
        self._headers = dict(settings.headers)  # may be secret: `redirects` keeps them at this origin
        self.name = public_name(self._base, settings.namespace)
        self.transport = Transport(settings, lookups, traffic)
        self.ranges = Ranges(now)
        self._health = Health(settings, self._base, self.name, now, self.ranges)
        self._fetcher = Fetcher(self.transport, settings.retries, self._health.breakers, self._base)
        self._auth = Authenticator(settings, self._base, self.name, self._fetcher)
        self._storage: URL | None = None  # the origin to which the registry sent who asked for a blob, last

    def url(self, repository: Repository, rest: str) -> URL:
        """`<remoteurl>/v2/<name>/<rest>`; what is in names and digests needs no quoting."""
        return URL(f"{self._base}/v2/{repository}/{rest}", encoded=True)

    async def send(
        self,
        method: str,
        repository: Repository,
        rest: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int | None = 0,
        query: str = "",
        again: bool = False,
    ) -> Answer:
        """The registry's final answer, authenticated as it asks: learned once, renewed once.

        `limit` and `again` as in `Call`. Raises RegistryError when there is no answer, or no token; at once
        when a breaker or a rate limit says that it is not worth asking now.
        """
        blob, scope = rest.startswith("blobs/"), _scope(repository)
        question = self._health.question(blob)
        try:
            url = self.url(repository, rest)
            call = Call(
                method,
                as_written(f"{url}?{query}") if query else url,
                headers={**self._headers, **(headers or {})},
                limit=limit,
                blob=blob,
                again=again,
                scope=scope,
                heard=self._health.hears(question, method),
            )
            return await self._authenticated(call)
        except RateLimited as error:
            self._health.limited(question, error)
            raise
        finally:
            question.ended()

    async def ask_as(self, authorization: str, repository: Repository | None, rest: str) -> Said:
        """What the registry says to somebody else's credentials ("": to nobody's). They are not kept.

        Nothing of ours goes along: no login, no configured header. HEAD of `<name>/<rest>`; of a list, and of
        `/v2/` (no repository), GET. Some registries refuse every HEAD of a blob, and object storage that of
        what was signed for GET: then the first byte is asked for. Redirects are followed as ever, without the
        credentials. Raises RegistryError when there is no answer.

        NB: 200 is a yes only if it can be what was asked for. Single sign-on in front of a registry answers
        whomever it does not know with a page, or sends him to one: 403.
        """
        # Breakers of his own: how our requests fare, or another's, tells what others ask for; and by what he
        # sends he may have the registry fail.
        if repository is None:
            return await self._said(
                "GET", f"{self._base}/v2/", {}, authorization, self._caller(authorization)
            )
        scope = f"{self._caller(authorization)} {_scope(repository)}"
        url = str(self.url(repository, rest))
        if rest.startswith("blobs/"):
            said = await self._said("HEAD", url, {}, authorization, scope)
            if said.status not in REFUSALS:
                return said
            return await self._said("GET", url, {"Range": "bytes=0-0"}, authorization, scope)
        headers = {"Accept": ", ".join(ACCEPT)}
        if rest == LIST:
            return await self._said("GET", f"{url}?n=1", {}, authorization, scope)
        said = await self._said("HEAD", url, headers, authorization, scope, is_of_manifest)
        if said is not _PAGE and said.status not in _METHOD_REFUSED:
            return said
        return await self._said("GET", url, headers, authorization, scope, is_of_manifest)

    def _caller(self, authorization: str) -> str:
        """Who he is, in the log, too: a keyed hash whose key dies with the process."""
        if not authorization:
            return "caller"
        text = authorization.encode("utf-8", "surrogateescape")
        return f"caller {blake2b(text, key=self._secret, digest_size=6).hexdigest()}"

    async def _said(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str,
        scope: str,
        fits: Callable[[Mapping[str, str]], bool] = lambda headers: not is_page(headers),
    ) -> Said:
        """`fits`: whether a success is what was asked for, by its headers."""
        sent = {**headers, "Authorization": authorization} if authorization else headers
        blob = "Range" in headers
        call = Call(
            method, as_written(url), headers=sent, limit=None, blob=blob, scope=scope, is_callers=True
        )
        answer = await self._fetcher.fetch(call, self.name)
        answer.close()
        if answer.elsewhere and answer.status == HTTPStatus.UNAUTHORIZED:
            return Said(HTTPStatus.FORBIDDEN)  # of the storage, which knows no callers: nothing to answer
        wait = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            text = f"{self.name} answered {answer.status} when it was asked what this client may have"
            raise Unavailable(text, retry_after=wait)
        if answer.status < HTTPStatus.MULTIPLE_CHOICES and not fits(answer.headers):
            media_type = answer.headers.get("Content-Type", "")
            _log.info("upstream.page", host=address(call.url), path=call.url.raw_path, type=media_type)
            return _PAGE
        return Said(answer.status, answer.challenges, wait)

    async def _authenticated(self, call: Call) -> Answer:
        """The final answer to this call. Raises RegistryError."""
        scope = call.scope
        learned = renewed = False
        while True:
            authorization = await self._auth.authorization(scope)
            extra = {"Authorization": authorization} if authorization else {}
            answer = await self._fetcher.fetch(replace(call, headers={**call.headers, **extra}), self.name)
            if call.blob and answer.response is not None:
                self._storage = answer.response.url.origin() if answer.elsewhere else None
            if answer.elsewhere or not self._auth.is_refusal(answer.status, authorization):
                return answer
            # `learned` and `renewed` each become true at most once: three requests at the most.
            if (renewed if authorization else learned) or not await self._auth.refused(
                scope, authorization, answer.challenges
            ):
                return answer
            learned, renewed = learned or not authorization, renewed or bool(authorization)

    def fail(self, answer: Answer, missing: ErrorCode, what: str) -> NoReturn:
        """Raise what an unwanted answer means; `missing` is the code for a plain 404."""
        answer.close()
        if answer.status == HTTPStatus.UNAUTHORIZED and not answer.elsewhere:
            self._auth.tell_refused()
        raise from_answer(
            answer.status,
            answer.headers,
            answer.body,
            name=self.name,
            missing=missing,
            what=what,
            with_credentials=self._auth.has_credentials,
            is_secret=self._auth.is_secret,
            elsewhere=answer.elsewhere,
        )

    def expect(self, repository: Repository) -> None:
        """Have connections ready for blobs of this repository: to the registry, and to where it sent whoever
        asked for the last one. None while it is in trouble, or near its limit.
        """
        condition = self.condition(repository)
        if condition.trouble is not None or condition.blobs is not None or condition.stretch > 1.0:
            return
        for origin in (self._base, self._storage):
            if origin is not None:
                self.transport.open_ahead(origin, READY)

    def condition(self, repository: Repository) -> Condition:
        """How the registry is doing, as far as this repository is concerned. Asks nobody."""
        return self._health.condition(_scope(repository))

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        """As `Health.describe`; of the registry alone where no repository is given."""
        return self._health.describe(now, _scope(repository) if repository else "")

    def broken(self, error: TransportError, answer: Answer) -> NoReturn:
        """Raise what trouble in the middle of a body means. Whoever reads the body may go on from there."""
        answer.visit.failed(cause=error.cause)
        _log.info("upstream.broken", host=error.host or address(self._base), cause=error.cause)
        raise from_trouble(error, self.name) from error

    async def close(self) -> None:
        """End what runs and drop the connections. Safe to call twice."""
        await self._auth.close()
        await self.transport.close()


def _scope(repository: Repository) -> str:
    """What a request is about, for tokens and breakers."""
    return f"repository:{repository}:pull"
