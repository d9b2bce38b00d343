"""The part of the composition root that is for operators: checks, the debug server, metrics, notifications.

Like `app` it reads `Config`, and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from mirror import __version__, appupstreams, outgoing
from mirror.cache.housekeeping import steadily
from mirror.config import Config
from mirror.confighosts import Address
from mirror.confignotifications import Endpoint
from mirror.configproxy import Proxy
from mirror.drivers.base import DriverError, PathNotFoundError, StorageDriver
from mirror.drivers.breaker import NOT_ASKED
from mirror.drivers.tiered import TieredDriver
from mirror.drivers.timed import TimedDriver
from mirror.health import probes
from mirror.health.checks import Check, Checks
from mirror.health.watch import Trouble, Watch
from mirror.log import redact_text
from mirror.looplag import LoopLag
from mirror.notify import endpoint as notify
from mirror.notify.event import Source
from mirror.notify.notifier import Notifier
from mirror.server.account import Account
from mirror.server.health import Gate
from mirror.upstream.routes import Routes
from mirror.upstream.traffic import Traffic

USER_AGENT = f"mirror/{__version__}"


@dataclass(frozen=True, slots=True)
class Operations:
    """All that is for operators. To be run with the application.

    `watch` None: the storage is on this machine; `tier` None: no copies are on a local disk; `notifier` None:
    nobody is notified.
    """

    driver: TimedDriver
    tier: TieredDriver | None
    watch: Watch | None
    account: Account
    traffic: dict[str, Traffic]
    gate: Gate
    checks: Checks
    notifier: Notifier | None
    lag: LoopLag
    client: _Client

    def warnings(self) -> list[str]:
        """What `/readyz` says of the storage: nothing, as long as it can be used."""
        unusable = self.watch.error if self.watch is not None else None
        trouble = unusable or self.driver.trouble()
        return (
            [f"storage: {trouble}; what is in memory is served, the rest comes from upstream"]
            if trouble
            else []
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Check, and notify, until the end of the block."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.client.close)
            if self.notifier is not None:
                await stack.enter_async_context(self.notifier.running())
            tasks = [
                asyncio.create_task(steadily("health", self.checks.run)),
                asyncio.create_task(steadily("lag", self.lag.run)),
            ]
            if self.watch is not None:
                tasks.append(asyncio.create_task(steadily("storage", self.watch.run)))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


class _Client:
    """The session of the checks, made when it is first used."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = outgoing.session(USER_AGENT)
        return self._session

    async def close(self) -> None:
        """Safe to call twice."""
        if self._session is not None:
            await self._session.close()


def build(config: Config, driver: StorageDriver, names: Routes) -> Operations:
    """Of this configuration; what is kept goes through its `driver`."""
    timed, gate, client = TimedDriver(driver), Gate(), _Client()
    return Operations(
        timed,
        driver if isinstance(driver, TieredDriver) else None,
        Watch(lambda: _look(timed), timed.denials) if config.storage.is_remote else None,
        Account(lambda namespace: appupstreams.label(names, namespace)),
        _traffic(config.proxy, names),
        gate,
        Checks(_checks(config, timed, client), gate.set_failing),
        _notifier(config),
        LoopLag(),
        client,
    )


def _traffic(proxy: Proxy, names: Routes) -> dict[str, Traffic]:
    return appupstreams.traffic(proxy, names)


def _checks(config: Config, driver: TimedDriver, client: _Client) -> Sequence[Check]:
    """Under the registry's names."""
    health = config.health
    found = []
    if health.storagedriver.enabled:
        check = health.storagedriver
        probe = probes.storage(lambda: _told(driver))
        name = f"storagedriver_{driver.name}"
        found.append(Check(name, probe, interval=check.interval, threshold=check.threshold))
    for file in health.file:
        probe = probes.file(file.file)
        found.append(Check(str(file.file), probe, interval=file.interval, threshold=file.threshold))
    for http in health.http:
        name = redact_text(http.uri)
        probe = probes.http(
            client,
            http.uri,
            name=name,
            status=http.statuscode,
            timeout=http.timeout,
            headers=_flat(http.headers),
        )
        found.append(Check(name, probe, interval=http.interval, threshold=http.threshold))
    for tcp in health.tcp:
        name = str(tcp.addr)
        probe = probes.tcp(tcp.addr.host or "localhost", tcp.addr.port, name=name, timeout=tcp.timeout)
        found.append(Check(name, probe, interval=tcp.interval, threshold=tcp.threshold))
    return found


async def _look(driver: TimedDriver) -> Trouble | None:
    """Why the storage cannot be looked at. A root that is not there yet is no reason, as in the registry."""
    try:
        await driver.stat("")
    except PathNotFoundError:
        return None
    except DriverError as error:
        advice = driver.advice(error)
        if not advice.what:
            return Trouble(str(error), error.cause)
        cause = error.cause.removeprefix(NOT_ASKED)  # the same text, however often it was found
        return Trouble(f"{cause} ({advice.where}): {advice.what}", f"{cause}: {advice.what}")
    return None


async def _told(driver: TimedDriver) -> str | None:
    """The same, for the operator."""
    trouble = await _look(driver)
    return None if trouble is None else trouble.told


def _notifier(config: Config) -> Notifier | None:
    section = config.notifications
    endpoints = [endpoint for endpoint in section.endpoints if not endpoint.disabled]
    if not endpoints:
        return None
    addr = config.http.addr
    port = f":{addr.port}" if isinstance(addr, Address) else ""
    source = Source(f"{socket.gethostname()}{port}", str(uuid.uuid4()))
    settings: list[notify.Settings] = []
    for endpoint in endpoints:
        settings.append(_endpoint(endpoint, {known.name for known in settings}))
    return Notifier(settings, source, USER_AGENT, references=section.events.includereferences)


def _endpoint(endpoint: Endpoint, taken: set[str]) -> notify.Settings:
    """Its name, or its host, is its label: each its own."""
    wanted = name = endpoint.name or urlsplit(endpoint.url).hostname or ""
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    return notify.Settings(
        name=name,
        url=endpoint.url,
        headers=_flat(endpoint.headers),
        timeout=endpoint.timeout,
        threshold=endpoint.threshold,
        backoff=endpoint.backoff,
        ignored_types=frozenset((*endpoint.ignoredmediatypes, *endpoint.ignore.mediatypes)),
        ignored_actions=frozenset(endpoint.ignore.actions),
    )


def _flat(headers: dict[str, tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, values in headers.items() for value in values)
