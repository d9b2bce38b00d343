"""The connection to one bucket: sessions, time-outs, attempts, and every failure as a DriverError."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any
from weakref import WeakSet

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from mirror.drivers.advice import coded
from mirror.drivers.answers import NO_ANSWER, NONSENSE, taken_apart
from mirror.drivers.base import Advice, DeniedError, DriverError, UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.overwriting import Overwriting
from mirror.drivers.s3advice import advice, region_key
from mirror.drivers.s3answers import NO_S3, OtherServerError, check_answer
from mirror.drivers.s3errors import ERRORS, failure, is_leftover, status, unusable
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.s3trust import TrustingSession
from mirror.drivers.slots import busy
from mirror.drivers.storeclient import StoreClient

CONNECT = 3.0  # seconds
SILENCE = 15.0  # seconds without a byte
ATTEMPTS = 3  # botocore's: after a break, a time-out, 5xx or a throttle, with growing waits between
LEFTOVERS = 8  # connections in a row that have something in them that is no answer
CALL = 30.0  # seconds that one small operation may take, with all its attempts
OPENING = 5.0  # seconds between two attempts to find a login
CONNECTIONS = 48  # for operations; more wait
READERS = 1024  # connections for bodies that clients read at their own pace: those must not hold up the rest
DENIED_PAUSE = 60.0  # seconds after a refused login: more of them may get the user locked out
REGION = "x-amz-bucket-region"  # an answer's header
NO_REGION = "us-east-1"  # what other servers than Amazon's take where none is given

log = structlog.get_logger()


@cache
def _loader() -> Any:
    """What reads the models, and keeps them: once in a process, whatever the number of sessions."""
    return create_loader()


class S3Client(StoreClient):
    """Opened by the first call, in the loop that it serves, or by `open`; owned by the driver."""

    def __init__(self, settings: S3Settings) -> None:
        """Blocks: reads the service's model from the disk, 0.1 s. Raises ValueError: AWS' files are wrong."""
        self.bucket = settings.bucket
        super().__init__(settings.root, Breaker(), CONNECTIONS)
        self._settings = settings
        self._heads = True  # until an answer to HEAD was spoilt
        self._overwriting = Overwriting()
        self._bodies: WeakSet[Any] = WeakSet()  # that are being read, each on a connection
        self._session: AioSession = get_session()
        self._session.register_component("data_loader", _loader())
        try:
            if not settings.access_key and settings.login is None:
                self._session.get_component("credential_provider")  # made here, not on the loop
            self._session.warm_up_loader_caches("s3")
        except boto.BotoCoreError as error:  # ~/.aws/config, or a profile that it has not
            raise ValueError(str(error)) from error
        self._clients = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._operations: Any = None
        self._readers: Any = None
        self._signer: Any = None
        self._region = ""  # of the bucket, where it is in another one than we were told
        self._denied: tuple[float, DeniedError] | None = None  # until when (monotonic) no login is tried
        self._closed = False
        self._unopened: tuple[float, type[DriverError], str] | None = None  # until when, and why

    def advice(self, error: DriverError) -> Advice:
        """Where it is, and what would help."""
        return advice(self._settings, error)

    async def open(self, path: str = "") -> None:
        """Make the clients, if they are not there. They connect when they are asked.

        Raises DeniedError, UnreachableError: no login can be had now; DriverError: a setting cannot be.
        """
        async with self._opening:
            if self._operations is not None or self._closed:
                return
            await self._log_in()
            if self._unopened is not None and time.monotonic() < self._unopened[0]:
                raise self._unopened[1](path, self._unopened[2])
            try:
                async with asyncio.timeout(CALL):  # a login may be asked for
                    await self._make_all()
            except TimeoutError as error:
                raise self._failed_to_open(UnreachableError(path, f"no login within {CALL:g} s")) from error
            except (*ERRORS, ValueError) as error:
                raise self._failed_to_open(unusable(path, error)) from error

    async def _make_all(self) -> None:
        operations, readers = await self._make(CONNECTIONS), await self._make(READERS)
        endpoint = self._settings.redirect_endpoint
        signer = await self._make(1, endpoint) if endpoint else operations
        # NB: a client that was made without a login never gets one.
        if not self._settings.access_key and await self._session.get_credentials() is None:
            await self._clients.aclose()
            raise boto.NoCredentialsError
        self._operations, self._readers, self._signer = operations, readers, signer

    def _signed(self, request: Any, **_: Any) -> None:
        """A request is about to be sent; learn the bucket's region where that is another than we were told.

        NB: botocore asks there from then on, but signs URLs for the region that it was made with.
        """
        context = request.context
        if self._region or not context.get("s3_redirect", {}).get("redirected"):
            return
        region = str(context.get("signing", {}).get("region") or "")
        if region and region != context.get("client_region"):
            self._region = region
            log.warning("storage.region", bucket=self.bucket, region=region, see=region_key(self._settings))

    async def _sign_elsewhere(self) -> None:
        """Have a signer for the bucket's own region."""
        async with self._opening:
            if self._signer is not None and self._signer.meta.region_name != self._region:
                self._signer = await self._make(1, self._settings.redirect_endpoint, self._region)

    def _failed_to_open(self, error: DriverError) -> DriverError:
        """It is not tried again at once: a chain that has no login takes seconds to say so."""
        self._unopened = time.monotonic() + OPENING, type(error), error.cause
        return error

    async def _log_in(self) -> None:
        """Ask for the keys, where that is to be done and was not. Raises DriverError."""
        if self._settings.login is None or self._settings.access_key:
            return
        if self._denied is not None and time.monotonic() < self._denied[0]:
            raise DeniedError("", self._denied[1].cause)
        self._breaker.check("")
        try:
            keys = await self._settings.login.keys()
        except DriverError as error:
            self._breaker.failed(error.cause, error.reason)
            if isinstance(error, DeniedError):
                self._denied = time.monotonic() + DENIED_PAUSE, error
            raise
        self._settings = replace(
            self._settings,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            endpoint=keys.endpoint,
        )

    async def call(self, path: str, operation: str, *, limit: float = CALL, **parameters: Any) -> Any:
        """One operation on the bucket. Raises DriverError; nothing takes longer than `limit` seconds."""
        return await self._run(path, operation, limit, parameters)

    async def write(self, path: str, operation: str, *, limit: float, **parameters: Any) -> Any:
        """As `call`: the operation with which an object appears."""
        with self._overwriting.write(path):
            return await self.call(path, operation, limit=limit, Key=self.key(path), **parameters)

    async def get(self, path: str, **parameters: Any) -> Any:
        """GetObject, of which the body is to be read, and closed, by the caller."""
        found = {"Key": self.key(path), **parameters}
        return await self._overwriting.look(
            path, lambda: self._run(path, "get_object", CALL, found, reading=True)
        )

    async def head(self, path: str) -> Any:
        """HeadObject. Raises PathNotFoundError, DriverError."""
        return await self._overwriting.look(path, lambda: self.call(path, "head_object", Key=self.key(path)))

    async def size_of(self, path: str) -> int:
        """Of an object, in bytes. Raises PathNotFoundError, DriverError."""
        return length(path, await self.head(path))

    async def life(self, path: str, seconds: float) -> float:
        """For how long a URL works that is signed now: not longer than the credentials. Raises DriverError.

        NB: those of a machine's or a container's role end, and S3 refuses then what was signed with them.
        """
        if self._settings.access_key:
            return seconds
        async with self._login(path):
            credentials: Any = await self._session.get_credentials()
            if credentials is None:
                raise boto.NoCredentialsError
            await credentials.get_frozen_credentials()  # fetches those that soon end anew
        ends: datetime | None = getattr(credentials, "_expiry_time", None)  # nothing public says it
        return seconds if ends is None else max(0.0, min(seconds, ends.timestamp() - time.time()))

    async def presign(self, path: str, seconds: float) -> str:
        """A URL by which anybody can GET an object for so long. Raises DriverError."""
        if self._signer is None:
            await self.open(path)
        self._check_open(path)
        if self._region and self._signer.meta.region_name != self._region:
            await self._sign_elsewhere()
        parameters = {"Bucket": self.bucket, "Key": self.key(path)}
        async with self._login(path):
            url = await self._signer.generate_presigned_url(
                "get_object", Params=parameters, ExpiresIn=int(seconds)
            )
        return str(url)

    @contextlib.asynccontextmanager
    async def _login(self, path: str) -> AsyncGenerator[None, None]:
        """Where credentials may be fetched anew. Raises DriverError."""
        try:
            async with asyncio.timeout(CALL):
                yield
        except TimeoutError as error:
            raise UnreachableError(path, f"no credentials within {CALL:g} s") from error
        except ERRORS as error:
            raise failure(path, error) from error

    def broke(self, path: str, error: BaseException) -> UnreachableError:
        """The failure of a body that was being read."""
        found = failure(path, error)
        self._breaker.failed(found.cause, found.reason)
        return found if isinstance(found, UnreachableError) else UnreachableError(path, found.cause)

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        self._closed = True
        await self._clients.aclose()
        self._operations = self._readers = self._signer = None

    async def _run(
        self,
        path: str,
        operation: str,
        limit: float,
        parameters: dict[str, Any],
        *,
        reading: bool = False,
    ) -> Any:
        if self._operations is None:
            await self.open(path)
        self._check_open(path)
        self._breaker.check(path)
        try:
            if reading:
                async with asyncio.timeout(limit):
                    answer = await self._ask(self._readers, operation, parameters)
                self._bodies.add(answer["Body"])
            else:
                async with self._slots.one(path), asyncio.timeout(limit):
                    answer = await self._ask(self._operations, operation, parameters)
        except TimeoutError as error:
            if reading and len(self._bodies) >= READERS:
                raise busy(path, READERS, limit) from error
            cause = f"no answer from the storage within {limit:g} s"
            self._breaker.failed(cause)
            raise UnreachableError(path, cause) from error
        except ERRORS as error:
            found = failure(path, error)
            if isinstance(found, UnreachableError):
                self._breaker.failed(found.cause, found.reason)
            elif status(error):
                self._breaker.refused(found)
            raise found from error
        except OtherServerError as error:
            found = coded(DeniedError(path, str(error)), NO_S3)
            self._breaker.refused(found)
            raise found from error
        except (ResponseParserError, RuntimeError, *NONSENSE) as error:
            # botocore takes the answer for what its model says; RuntimeError: of a time
            self._breaker.answered()
            raise DriverError(path, NO_ANSWER) from error
        self._breaker.answered()
        return answer

    async def _ask(self, client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        """Once more where a connection had something else in it than an answer; botocore does not try that.

        Old servers (Swift 2.30) say `0` behind a HEAD's 404, where the next answer should begin; what comes
        with it at once spoils the 404 itself, however often it is asked for. Such a server is asked by GET.
        """
        if operation == "head_object" and not self._heads:
            return await self._head_by_get(client, parameters)
        for _ in range(LEFTOVERS):
            try:
                return await getattr(client, operation)(Bucket=self.bucket, **parameters)
            except ERRORS as error:
                if not is_leftover(error):
                    raise
                if operation == "head_object":
                    self._heads = False
                    return await self._head_by_get(client, parameters)
        return await getattr(client, operation)(Bucket=self.bucket, **parameters)

    async def _head_by_get(self, client: Any, parameters: dict[str, Any]) -> Any:
        """What HEAD says, of an answer to GET, the body of which is not read."""
        answer = await self._ask(client, "get_object", parameters)
        answer["Body"].close()
        return answer

    def _check_open(self, path: str) -> None:
        if self._closed:
            raise UnreachableError(path, "the driver is closed")

    async def _make(self, connections: int, endpoint: str = "", region: str = "") -> Any:
        """A client of its own connections; those of readers must not wait for one another's."""
        settings = self._settings
        config = AioConfig(
            connect_timeout=CONNECT,
            read_timeout=SILENCE,
            max_pool_connections=connections,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            signature_version="s3v4",
            # Each upload has its MD5, which every server checks, also those that know no other checksum.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            use_dualstack_endpoint=settings.dual_stack or None,
            use_fips_endpoint=settings.fips or None,
            user_agent_extra=settings.user_agent or None,
            http_session_cls=TrustingSession,
            s3={
                "addressing_style": _style(settings),
                "use_accelerate_endpoint": settings.accelerate,
                # Hashing each part once more, on the event loop, would take longer than to send it.
                "payload_signing_enabled": False,
            },
        )
        client = await self._clients.enter_async_context(
            self._session.create_client(
                "s3",
                region_name=region or settings.region or (NO_REGION if settings.endpoint else None),
                endpoint_url=endpoint or settings.endpoint or None,
                use_ssl=settings.secure,
                # Without TLS there is nothing to verify, and reading the system's CAs takes 30 ms.
                verify=None if settings.verify and settings.is_tls else False,
                aws_access_key_id=settings.access_key or None,
                aws_secret_access_key=settings.secret_key or None,
                aws_session_token=settings.session_token or None,
                config=config,
            )
        )
        client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
        client.meta.events.register("before-sign.s3", self._signed)
        # NB: by this name it comes before botocore's own, which makes 500 of a page.
        client.meta.events.register("before-parse.*.*", check_answer)
        client.meta.events.register_first("needs-retry.s3.HeadBucket", _end_redirects)
        return client


def length(path: str, answer: Any) -> int:
    """Bytes of an object, or of the piece that an answer has of it. Raises DriverError; it is closed then."""
    try:
        with taken_apart(path, "the storage does not say how long it is"):
            return int(answer["ContentLength"])
    except DriverError:
        if "Body" in answer:
            answer["Body"].close()
        raise


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Old servers take no batch of deletions without a Content-MD5; botocore gives a newer checksum only."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


def _end_redirects(request_dict: dict[str, Any], response: Any, **_: Any) -> None:
    """A HEAD of the bucket that is redirected, too, and names no region, leads nowhere.

    NB: botocore sends it to learn where a redirected request belongs, and without this another for that one,
    until Python's stack ends: a hundred requests for each of ours.
    """
    if response is not None and REGION not in response[1]["ResponseMetadata"]["HTTPHeaders"]:
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _style(settings: S3Settings) -> str:
    """Where the bucket stands in URLs. NB: with an endpoint, "auto" is in the path."""
    if settings.path_style:
        return "path"
    return "virtual" if settings.endpoint else "auto"
