"""The connections to one container: time-outs, attempts, and every failure as a DriverError.

obstore's for all but what is put there: see `azuresending`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from obstore.store import AzureStore

from mirror.drivers.azureerrors import ERRORS, answered, failure
from mirror.drivers.azurelogin import TokenLogin, login
from mirror.drivers.azuresending import Sending
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import DeniedError, DriverError, UnreachableError
from mirror.drivers.breaker import Breaker
from mirror.drivers.storeclient import StoreClient

CONNECT = 3.0  # seconds
SILENCE = 15.0  # seconds without a byte
LONGEST_WAIT = 3.0  # seconds between two attempts
CALL = 30.0  # seconds that one small operation may take, with all its attempts
READING = 7 * 86400.0  # seconds that a body may take, as long as bytes come: clients read at their own pace
CONNECTIONS = 48  # operations at a time; more wait

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig  # not there at run time

T = TypeVar("T")


class AzureClient(StoreClient):
    """Stores of obstore's, and what sends, each with connections of its own; and the breaker before them."""

    def __init__(self, settings: AzureSettings) -> None:
        super().__init__(settings.root, Breaker(), CONNECTIONS)
        self._login = login(settings)
        self.store = _store(settings, self._login, CALL)
        self.readers = _store(settings, self._login, READING)
        self.sending = Sending(settings, self._login, CONNECT, SILENCE)
        self._closed = False

    async def call(self, path: str, work: Callable[[], Awaitable[T]], limit: float = CALL) -> T:
        """What a call of a library's gives. Raises DriverError; nothing takes longer than `limit` seconds."""
        async with self._within(path, limit):
            return await self._ask(path, work)

    async def _ask(self, path: str, work: Callable[[], Awaitable[T]]) -> T:
        self.check(path)
        try:
            found = await work()  # NB: obstore begins where it is called, not where it is awaited
        except TimeoutError:
            raise
        except ERRORS as error:
            known = self._explained(failure(path, error))
            if isinstance(known, UnreachableError):
                self._breaker.failed(known.cause, known.reason)
            elif answered(error):
                self._breaker.refused(known)
            raise known from error
        self._breaker.answered()
        return found

    def _explained(self, error: DriverError) -> DriverError:
        """With why no token could be had: neither library says it."""
        trouble = "" if self._login is None else self._login.trouble
        if not trouble or error.reason or not isinstance(error, DeniedError):
            return error
        return DeniedError(error.path, f"no login for the storage can be had: {trouble}")

    def check(self, path: str) -> None:
        """Raises UnreachableError while nothing is to be asked."""
        if self._closed:
            raise UnreachableError(path, "the driver is closed")
        self._breaker.check(path)

    def broke(self, error: DriverError) -> None:
        """A body broke off with this."""
        self._breaker.failed(error.cause, error.reason)

    async def close(self) -> None:
        """Nothing is asked any more. obstore closes connections when the stores go."""
        self._closed = True
        await self.sending.close()
        if self._login is not None:
            await self._login.close()


def _store(settings: AzureSettings, by_tokens: TokenLogin | None, limit: float) -> AzureStore:
    options: ClientConfig = {
        "allow_http": settings.endpoint.startswith("http:"),
        "allow_invalid_certificates": not settings.verify,
        "connect_timeout": timedelta(seconds=CONNECT),
        "read_timeout": timedelta(seconds=SILENCE),
        "timeout": timedelta(seconds=limit),
        "default_content_type": "application/octet-stream",
    }
    if settings.user_agent:
        options["user_agent"] = settings.user_agent
    retry: RetryConfig = {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=CALL),
        "backoff": {
            "init_backoff": timedelta(seconds=settings.retry_delay),
            "max_backoff": timedelta(seconds=max(LONGEST_WAIT, settings.retry_delay)),
            "base": 2,
        },
    }
    config: dict[str, Any] = {"account_name": settings.account, "endpoint": settings.endpoint}
    if settings.key:
        config |= {"account_key": settings.key, "credential_type": "access_key"}
    elif settings.shared_access:
        config |= {"sas_key": settings.shared_access, "credential_type": "sas_token"}
    return AzureStore(
        settings.container,
        config=config,  # type: ignore[arg-type]
        client_options=options,
        retry_config=retry,
        credential_provider=None if by_tokens is None else by_tokens.for_obstore,
    )
