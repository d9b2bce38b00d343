"""The connection to one bucket of Google Cloud Storage, by its JSON API: time-outs, attempts, failures."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode
from weakref import WeakSet

import aiohttp
from yarl import URL

from mirror.drivers.base import DriverError, UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.broken import BROKEN, broken
from mirror.drivers.gcserrors import AGAIN, refused
from mirror.drivers.gcslogin import Login
from mirror.drivers.gcssettings import ENDPOINT, GcsSettings
from mirror.drivers.slots import busy
from mirror.drivers.storeclient import StoreClient

CONNECT = 3.0  # seconds
SILENCE = 15.0  # seconds without a byte
ATTEMPTS = 3  # after a break, a time-out, 5xx or a throttle
FIRST_WAIT = 0.3  # seconds before the second attempt; three times as long before the next
CALL = 30.0  # seconds that one small operation may take, with all its attempts
READERS = 1024  # connections for bodies that clients read at their own pace
BODY_LIMIT = 32 << 20  # bytes of an answer that is read whole: a listing of a thousand long names has 2 MiB
ERROR_LIMIT = 64 << 10  # bytes that are read of a refusal


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class GcsClient(StoreClient):
    """Opened by the first call, in the loop that it serves; owned by the driver."""

    def __init__(self, settings: GcsSettings) -> None:
        """Blocks: reads the key. Raises ValueError."""
        super().__init__(settings.root, Breaker(), settings.connections)
        self._settings = settings
        self._endpoint = settings.endpoint.rstrip("/")
        self._asks_google = self._endpoint == ENDPOINT
        self.login = Login(settings.key) if self._asks_google or settings.key else None
        self._bodies: WeakSet[aiohttp.ClientResponse] = WeakSet()  # that are being read
        self._operations: aiohttp.ClientSession | None = None
        self._readers: aiohttp.ClientSession | None = None
        self._closed = False

    def objects(self, path: str | None = None, **query: object) -> str:
        """The URL of all objects, or of one."""
        url = f"{self._endpoint}/storage/v1/b/{quote(self._settings.bucket, safe='')}/o"
        if path is not None:
            url += f"/{quote(self.key(path), safe='')}"
        return f"{url}?{urlencode(query)}" if query else url

    def upload(self, **query: object) -> str:
        """The URL where objects are made."""
        bucket = quote(self._settings.bucket, safe="")
        return f"{self._endpoint}/upload/storage/v1/b/{bucket}/o?{urlencode(query)}"

    def open(self) -> None:
        """Make the sessions, if they are not there."""
        if self._operations is None and not self._closed:
            self._operations = self._make(self._settings.connections)
            self._readers = self._make(READERS)

    async def call(
        self,
        path: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        wanted: Collection[int] = (200,),
        limit: float = CALL,
    ) -> Reply:
        """One request, and its attempts. Raises DriverError; nothing takes longer than `limit` seconds."""
        self._check(path)
        assert self._operations is not None
        async with self._within(path, limit):
            return await self._attempts(self._operations, path, method, url, headers, body, wanted)

    async def get(self, path: str, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """An answer of which the body is to be read, and closed, by the caller. Raises DriverError."""
        self._check(path)
        assert self._readers is not None
        try:
            async with asyncio.timeout(CALL):
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        answer = await self._send(self._readers, path, "GET", url, headers, None)
                    except BROKEN as error:
                        if attempt == ATTEMPTS:
                            raise self._broke(path, error) from error
                    else:
                        if answer.status in (200, 206):
                            self._breaker.answered()
                            self._bodies.add(answer)
                            return answer
                        reply = await self._whole(answer)
                        if attempt == ATTEMPTS or reply.status not in AGAIN:
                            raise self._refused(path, reply)
                    await _pause(attempt)
        except TimeoutError as error:
            if len(self._bodies) >= READERS:
                raise busy(path, READERS, CALL) from error
            raise self._broke(path, error) from error
        raise AssertionError

    def broke(self, error: DriverError) -> None:
        """A body broke off with this."""
        self._breaker.failed(error.cause, error.reason)

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        self._closed = True
        for session in (self._operations, self._readers):
            if session is not None:
                await session.close()
        if self.login is not None:
            self.login.close()

    async def _attempts(
        self,
        session: aiohttp.ClientSession,
        path: str,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        wanted: Collection[int],
    ) -> Reply:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply = await self._whole(await self._send(session, path, method, url, headers or {}, body))
            except BROKEN as error:
                if attempt == ATTEMPTS:
                    raise self._broke(path, error) from error
            else:
                if reply.status in wanted:
                    self._breaker.answered()
                    return reply
                if attempt == ATTEMPTS or reply.status not in AGAIN:
                    raise self._refused(path, reply)
            await _pause(attempt)
        raise AssertionError

    async def _send(
        self,
        session: aiohttp.ClientSession,
        path: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        sent = dict(headers)
        # The token is for Google alone, also where an answer has named the URL.
        if self._asks_google and self.login is not None and url.startswith(f"{self._endpoint}/"):
            sent["Authorization"] = f"Bearer {await self.login.token(path)}"
        if body is not None:
            sent["Content-Length"] = str(len(body))
        return await session.request(
            method,
            URL(url, encoded=True),
            headers=sent,
            data=None if body is None else io.BytesIO(body),  # which is sent in pieces
            allow_redirects=False,
        )

    async def _whole(self, answer: aiohttp.ClientResponse) -> Reply:
        """Read it to its end; of a refusal the beginning."""
        async with answer:
            limit = BODY_LIMIT if answer.status < 400 else ERROR_LIMIT
            body = bytearray()
            async for data in answer.content.iter_any():
                body += data
                if len(body) > limit:
                    break
            return Reply(answer.status, answer.headers, bytes(body[:limit]))

    def _broke(self, path: str, error: BaseException) -> UnreachableError:
        found = broken(path, error)
        self._breaker.failed(found.cause, found.reason)
        return found

    def _refused(self, path: str, reply: Reply) -> DriverError:
        found = refused(path, reply.status, reply.body)
        if isinstance(found, UnreachableError):
            self._breaker.failed(found.cause, found.reason)
        else:
            self._breaker.refused(found)
        return found

    def _check(self, path: str) -> None:
        if self._closed:
            raise UnreachableError(path, "the driver is closed")
        self.open()
        self._breaker.check(path)

    def _make(self, connections: int) -> aiohttp.ClientSession:
        """A session of its own connections: those of readers must not wait for one another's."""
        agent = {"User-Agent": self._settings.user_agent} if self._settings.user_agent else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
            headers={"Accept-Encoding": "identity", **agent},
            auto_decompress=False,
            trust_env=True,  # a proxy, as the other libraries of drivers do
            cookie_jar=aiohttp.DummyCookieJar(),
        )


async def _pause(attempt: int) -> None:
    """Before the next one."""
    await asyncio.sleep(FIRST_WAIT * 3.0 ** (attempt - 1) * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
