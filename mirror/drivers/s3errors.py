"""What goes wrong with S3, as the kinds that drivers.base has. Messages hold no key, URL or signature."""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore import exceptions as boto

from mirror.drivers.advice import coded, untrusted
from mirror.drivers.answers import line
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    NoSpaceError,
    PathNotFoundError,
    ThrottledError,
    UnreachableError,
)

CODE_LIMIT = 80  # characters of a server's code
MISSING = {"NoSuchKey", "NotFound", "404"}
THROTTLED = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "TooManyRequests",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
}
FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoSuchBucket",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
# What reading a body raises beside botocore's own: it is read from aiohttp's stream (see `s3file`).
AIOHTTP = (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)
BROKEN = (boto.BotoCoreError, boto.HTTPClientError, *AIOHTTP, OSError)
ERRORS = (boto.ClientError, *BROKEN)


def failure(path: str, error: BaseException) -> DriverError:
    """The DriverError for what an operation raised; the caller raises it from that."""
    if isinstance(error, boto.ClientError):
        return _refused(path, error)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return DeniedError(path, "no credentials were found, neither configured nor in the AWS chain")
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return DeniedError(path, "the AWS credential chain gives no credentials")
    if isinstance(error, boto.ConnectTimeoutError):
        return UnreachableError(path, "the storage cannot be connected to in time")
    if isinstance(error, boto.ReadTimeoutError | TimeoutError):
        return UnreachableError(path, "the storage does not answer in time")
    if isinstance(error, boto.SSLError):
        return untrusted(path, error)
    if isinstance(error, boto.EndpointConnectionError | boto.ProxyConnectionError):
        return UnreachableError(path, "the storage cannot be connected to")
    if isinstance(error, (boto.HTTPClientError, *AIOHTTP, OSError)):
        return UnreachableError(path, "the storage broke off")
    return DriverError(path, f"the request to the storage failed: {type(error).__name__}")


def unusable(path: str, error: BaseException) -> DriverError:
    """The DriverError for what making a client raised: most often a setting that cannot be."""
    known = failure(path, error)
    if type(known) is DriverError:  # botocore's texts name settings here, and no secrets
        return DriverError(path, f"no client can be made: {line(str(error))}")
    return known


def is_leftover(error: BaseException) -> bool:
    """Whether there was something else on the connection than an answer: that one is closed then."""
    told = getattr(error, "kwargs", {}).get("error") if type(error) is boto.HTTPClientError else None
    return isinstance(told, aiohttp.ClientResponseError) and told.status == 400


def status(error: BaseException) -> int:
    """The HTTP status of a refusal; 0 of any other failure."""
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def code(error: BaseException) -> str:
    """S3's code of a refusal, "" of any other failure."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code") or "")


def told(entry: Any) -> str:
    """An error in an answer, for people: `AccessDenied: Access Denied.`"""
    message = line(str(entry.get("Message") or ""))
    code = line(str(entry.get("Code") or ""), CODE_LIMIT)
    if code.isdigit() and message:  # botocore's own, where there is no document: the status and its words
        return message
    return f"{code or 'no code'}{': ' if message else ''}{message}"


def _refused(path: str, error: boto.ClientError) -> DriverError:
    return coded(_kind(path, error), code(error) or str(status(error)))


def _kind(path: str, error: boto.ClientError) -> DriverError:
    name, number = code(error), status(error)
    text = f"the storage answers {number} {told(error.response.get('Error', {}))}"
    if name in MISSING or (number == 404 and name not in DENIED):
        return PathNotFoundError(path, "no such object")
    if name in FULL or number == 507:
        return NoSpaceError(path, text)
    if name in THROTTLED or number == 429:
        return ThrottledError(path, text)
    if name in DENIED or number in (401, 403):
        return DeniedError(path, text)
    if number >= 500 and number != 501:
        return UnreachableError(path, text)
    return DriverError(path, text)
