"""The operations on one bucket: each within its time, and every failure as a DriverError."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any
from weakref import WeakSet

from botocore.parsers import ResponseParserError

from mirror.drivers.advice import coded
from mirror.drivers.answers import NO_ANSWER, NONSENSE, taken_apart
from mirror.drivers.base import Advice, DeniedError, DriverError, UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.overwriting import Overwriting
from mirror.drivers.s3advice import advice
from mirror.drivers.s3answers import NO_S3, OtherServerError
from mirror.drivers.s3errors import ERRORS, failure, is_leftover, status
from mirror.drivers.s3opening import S3Opening, fetching
from mirror.drivers.s3session import S3Session
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.slots import busy
from mirror.drivers.storeclient import StoreClient

LEFTOVERS = 8  # connections in a row that have something in them that is no answer
CALL = 30.0  # seconds that one small operation may take, with all its attempts
CONNECTIONS = 48  # for operations; more wait
READERS = 1024  # connections for bodies that clients read at their own pace: those must not hold up the rest


class S3Client(StoreClient):
    """Opened by the first call, in the loop that it serves, or by `open`; owned by the driver."""

    def __init__(self, settings: S3Settings) -> None:
        """Blocks: reads the service's model from the disk, 0.1 s. Raises ValueError: AWS' files are wrong."""
        self.bucket = settings.bucket
        super().__init__(settings.root, Breaker(), CONNECTIONS)
        self._heads = True  # until an answer to HEAD was spoilt
        self._overwriting = Overwriting()
        self._bodies: WeakSet[Any] = WeakSet()  # that are being read, each on a connection
        self._session = S3Session(settings)
        self._opening = S3Opening(self._session, self._breaker, CONNECTIONS, READERS)

    def advice(self, error: DriverError) -> Advice:
        """Where it is, and what would help."""
        return advice(self._session.settings, error)

    async def open(self, path: str = "") -> None:
        """As `S3Opening.open`."""
        await self._opening.open(path)

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
        if self._session.settings.access_key:
            return seconds
        async with fetching(path):
            credentials = await self._session.credentials()
            await credentials.get_frozen_credentials()  # fetches those that soon end anew
        ends: datetime | None = getattr(credentials, "_expiry_time", None)  # nothing public says it
        return seconds if ends is None else max(0.0, min(seconds, ends.timestamp() - time.time()))

    async def presign(self, path: str, seconds: float) -> str:
        """A URL by which anybody can GET an object for so long. Raises DriverError."""
        parameters = {"Bucket": self.bucket, "Key": self.key(path)}
        async with fetching(path):
            signer = await self._opening.signer(path)
            url = await signer.generate_presigned_url("get_object", Params=parameters, ExpiresIn=int(seconds))
        return str(url)

    def broke(self, path: str, error: BaseException) -> UnreachableError:
        """The failure of a body that was being read."""
        found = failure(path, error)
        self._breaker.failed(found.cause, found.reason)
        return found if isinstance(found, UnreachableError) else UnreachableError(path, found.cause)

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._opening.close()

    async def _run(
        self,
        path: str,
        operation: str,
        limit: float,
        parameters: dict[str, Any],
        *,
        reading: bool = False,
    ) -> Any:
        if self._opening.operations is None:
            await self.open(path)
        self._opening.check(path)
        self._breaker.check(path)
        try:
            if reading:
                async with asyncio.timeout(limit):
                    answer = await self._ask(self._opening.readers, operation, parameters)
                self._bodies.add(answer["Body"])
            else:
                async with self._slots.one(path), asyncio.timeout(limit):
                    answer = await self._ask(self._opening.operations, operation, parameters)
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


def length(path: str, answer: Any) -> int:
    """Bytes of an object, or of the piece that an answer has of it. Raises DriverError; it is closed then."""
    try:
        with taken_apart(path, "the storage does not say how long it is"):
            return int(answer["ContentLength"])
    except DriverError:
        if "Body" in answer:
            answer["Body"].close()
        raise
