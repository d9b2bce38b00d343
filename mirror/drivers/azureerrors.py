"""What goes wrong with Azure, as the kinds that drivers.base has. Messages hold no URL and no signature.

There are two libraries: Microsoft's own, and obstore. NB: obstore says a refusal's status and Azure's code
only in the text of its errors, which begins with
`Error performing GET <url> in 5ms - Server returned non-2xx status code: 403 Forbidden: <body>`.
"""

from __future__ import annotations

import re

from azure.core import exceptions as azure
from obstore import exceptions as obstore

from mirror.drivers.advice import PLAIN, TLS, Fault, coded, keys_of
from mirror.drivers.answers import line
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    NoSpaceError,
    PathNotFoundError,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.broken import broken
from mirror.drivers.objectstore import BehindError, ChangedError

# What their calls raise: some of obstore's kinds are Python's own, such as FileNotFoundError.
ERRORS = (azure.AzureError, obstore.BaseError, OSError, ValueError)
NO_LOGIN = "no login for the storage can be had: see the account's key or credentials"
NO_CONTAINER = {"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled", "ResourceNotFound"}
FAULTS = {  # https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
    "AuthenticationFailed": Fault.SIGNATURE,
    "InvalidAuthenticationInfo": Fault.SIGNATURE,
    "NoAuthenticationInformation": Fault.NO_LOGIN,
    "AuthorizationFailure": Fault.FIREWALL,
    "AuthorizationPermissionMismatch": Fault.RIGHT,
    "InsufficientAccountPermissions": Fault.RIGHT,
    "ContainerNotFound": Fault.BUCKET,
    "ContainerBeingDeleted": Fault.BUCKET,
    "ContainerDisabled": Fault.BUCKET,
    "InvalidResourceName": Fault.BUCKET,
    "AccountIsDisabled": Fault.LOGIN,
    "ResourceNotFound": Fault.ENDPOINT,
    "404": Fault.ENDPOINT,
}
THROTTLED = {"ServerBusy", "TooManyRequests"}  # the first with 503

_PLAIN = "InvalidContentType"  # rustls, of an answer in the clear
_STATUS = re.compile(r"[Ss]tatus(?: code)?:? \"?([2-5]\d\d)\b|\(code: ([2-5]\d\d)\)")
_CODE = re.compile(r"<Code>([A-Za-z]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,1000})")
_LOGIN = re.compile(r"token request|authorization|credential|imds", re.I)


def keys(settings: AzureSettings) -> dict[str, str]:
    """What the settings are called. Without a key the login is that of `credentials`."""
    login = "accountname accountkey"
    if settings.shared_access:
        login = "connectionstring"
    elif settings.secret:
        login = "credentials.clientid credentials.tenantid credentials.secret"
    elif not settings.key:
        login = "accountname credentials"
    found = keys_of(
        "azure", login=login, signature=login, bucket="container", endpoint="accountname serviceurl"
    )
    return {**found, "plain": "http:// in storage.azure.serviceurl"}


def failure(path: str, error: BaseException) -> DriverError:
    """The error of a call, as the kind that it is."""
    if isinstance(error, azure.AzureError):
        return _unsent(path, error)
    text = str(error)
    found = _STATUS.search(text)
    if found is not None:
        return coded(_refused(path, int(found[1] or found[2]), text), _code(text) or found[1] or found[2])
    if isinstance(error, FileNotFoundError | obstore.NotFoundError):
        return PathNotFoundError(path, "no such object")
    if isinstance(error, PermissionError | obstore.PermissionDeniedError | obstore.UnauthenticatedError):
        return DeniedError(path, "the storage does not let us")
    if "StartTooLarge" in text:  # it answers with the object's end there
        return BehindError(path, "ends before the byte that was asked for")
    if _LOGIN.search(text.partition("\n")[0]):
        return DeniedError(path, NO_LOGIN)
    if _PLAIN in text:
        return coded(UnreachableError(path, "the storage answers without TLS"), PLAIN)
    if "certificate" in text.lower():
        return coded(UnreachableError(path, "no trusted TLS connection to the storage"), TLS)
    if "timed out" in text or "TimedOut" in text:
        return UnreachableError(path, "the storage does not answer in time")
    if "HTTP error" not in text:
        return DriverError(path, f"the request to the storage failed: {type(error).__name__}")
    if "Connect" in text:
        return UnreachableError(path, "the storage cannot be connected to")
    return UnreachableError(path, "the storage broke off")


def answered(error: BaseException) -> bool:
    """Whether the storage said something."""
    if isinstance(error, azure.AzureError):
        return _answer(error) is not None
    return _STATUS.search(str(error)) is not None


def _unsent(path: str, error: azure.AzureError) -> DriverError:
    """The error of a call of Microsoft's library."""
    answer = _answer(error)
    if answer is not None:
        status, text = answer
        return coded(_refused(path, status, text), _code(text) or str(status))
    if isinstance(error, azure.ClientAuthenticationError):
        return DeniedError(path, NO_LOGIN)
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError | azure.HttpResponseError):
        return broken(path, error.inner_exception or error)
    return DriverError(path, f"the request to the storage failed: {type(error).__name__}")


def _answer(error: azure.AzureError) -> tuple[int, str] | None:
    """A refusal's status and text; None: there was no whole answer."""
    found = error.response if isinstance(error, azure.HttpResponseError) else None
    body = getattr(found, "body", None)
    if found is None or body is None:
        return None
    try:
        return int(found.status_code or 0), body().decode("utf-8", "replace")
    except (ValueError, azure.AzureError):  # it was not read
        return None


def _code(text: str) -> str:
    """Azure's own, of a refusal; "": it gives none."""
    found = _CODE.search(text)
    return found[1] if found else ""


def _refused(path: str, status: int, text: str) -> DriverError:
    name = _code(text)
    message = _MESSAGE.search(text)
    said = f" {name}: {line(message[1])}" if name and message else ""
    told = f"the storage answers {status}{said}"
    if status == 404 and name not in NO_CONTAINER:
        return PathNotFoundError(path, "no such object")
    if status == 412:
        return ChangedError(path, "was changed while it was read")
    if status == 416:
        return BehindError(path, told)
    if name in THROTTLED or status == 429:
        return ThrottledError(path, told)
    if status in (401, 403, 404):
        return DeniedError(path, told)
    if status == 507:
        return NoSpaceError(path, told)
    return UnreachableError(path, told) if status >= 500 else DriverError(path, told)
