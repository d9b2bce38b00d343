"""The composition root: Config -> driver -> store -> upstream -> cache -> server, and their lifetimes.

The only place that reads `Config`. It joins rooms and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from mirror import (
    __version__,
    appaccess,
    appkeeping,
    appmetrics,
    appoperations,
    appstorage,
    appupstreams,
    pauses,
)
from mirror import log as logging
from mirror.apperror import StartError
from mirror.applisten import debugging, entrance, limits_of
from mirror.appstorage import SPOOL, described, storage
from mirror.cache.fills import Fills
from mirror.cache.freshness import Policy, Rule
from mirror.cache.pullthrough import PullThrough
from mirror.cache.segments import Settings as Segments
from mirror.cache.spool import Spool
from mirror.cache.strangers import Strangers
from mirror.config import Config
from mirror.configfile import Loaded
from mirror.confignames import OPEN
from mirror.drivers.base import StorageDriver
from mirror.ledger.sqlite import Ledger
from mirror.oci.names import Repository
from mirror.server import connections, control, debug, limits, routes
from mirror.server.health import Gate
from mirror.server.settings import Settings as ServerSettings
from mirror.upstream.routes import Routes

SWEEP_INTERVAL = 3600.0  # seconds between two looks for spool files that nobody came back for
NO_WAIT = 0.01  # seconds; aiohttp takes 0 for "no limit", and http.draintimeout 0 means "do not wait"
# NB: aiohttp waits twice for `shutdown_timeout`: for handlers to end, and again after it has told them so,
# which ours, that wait for no body, do not hear.
SHUTDOWNS = 2
DEBUG = web.AppKey("debug", debug.Debug)  # what the debug server says, if there is one
GATE = web.AppKey("gate", Gate)
LEDGER = "ledger.sqlite"  # beside it
# For names to be resolved and large manifests to be read. asyncio's own few would all wait when a DNS server
# does not answer.
THREADS = 32

__all__ = ["SPOOL", "StartError", "build", "serve", "storage"]

log = structlog.get_logger()


async def serve(loaded: Loaded, file: Path | None) -> None:
    """Serve what `file` says until SIGTERM or SIGINT, then drain. Raises StartError."""
    config = loaded.config
    logging.configure(config.log.level, config.log.formatter, config.log.fields)
    limits.raise_open_files()
    for warning in loaded.warnings:
        log.warning("config.warning", detail=str(warning))
    _create_users(config)
    async with contextlib.AsyncExitStack() as stack:
        driver, spool_folder, remarks = stack.enter_context(storage(config))
        app = build(config, driver, spool_folder, remarks)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=config.http.draintimeout / SHUTDOWNS or NO_WAIT,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "default"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, stop, number)
        async with (
            entrance(config.http, os.environ) as door,
            _running(runner),
            debugging(app[DEBUG], config.http.debug.addr),
        ):
            addr = await door.open(runner)
            pauses.shorten()
            log.info(
                "mirror.started",
                version=__version__,
                addr=addr,
                tls=door.certificates is not None,
                config=_path(file),
                upstream=config.proxy.remoteurl,
                login=appupstreams.login(config.proxy),
                others=len(config.proxy.upstreams),
                storage=described(config),
                folder=str(spool_folder.parent),
            )
            await stop.wait()
            app[GATE].is_stopping = True
            log.info("mirror.stopping", draintimeout=f"{config.http.draintimeout:g}s")
    log.info("mirror.stopped")


@contextlib.asynccontextmanager
async def _running(runner: web.AppRunner) -> AsyncGenerator[None, None]:
    """The application from its start to the end of its drain."""
    await runner.setup()
    try:
        yield
    finally:
        await runner.cleanup()


def build(
    config: Config, driver: StorageDriver, spool_folder: Path, remarks: Sequence[str] = ()
) -> web.Application:
    """All rooms joined. What lives in time starts and stops with the application; the driver does so too.

    `remarks` on the storage are for `/readyz`.
    """
    proxy = config.proxy
    names = appupstreams.routes(proxy)
    operations = appoperations.build(config, driver, names)
    driver = operations.driver
    keeping = appkeeping.build(config, driver, spool_folder.parent, names)
    upstream = appupstreams.upstreams(proxy, names, operations.traffic)
    strangers = Strangers(partial(_stranger, names))
    segments = Segments(least=config.cache.segments.from_, connections=config.cache.segments.connections)
    fills = Fills(upstream, keeping.store, Spool(spool_folder), strangers, keeping.keeper, segments)
    ledger = Ledger(spool_folder.parent / LEDGER)
    registry = PullThrough(
        keeping.store,
        upstream,
        fills,
        ledger,
        policy=Policy(
            default=proxy.freshness.default,
            rules=tuple(Rule(rule.match, rule.fresh) for rule in proxy.freshness.rules),
            stale=proxy.stale,
            negative=proxy.negative,
        ),
        deadline=proxy.deadline,
        memory=keeping.memory,
        room=keeping.keeper,
        note_use=keeping.inventory.note_use,
        clock=keeping.clock,
    )
    gate = appaccess.build(config, names, upstream)
    app = routes.build(
        registry,
        ServerSettings(
            prefix=config.http.prefix,
            headers=config.http.headers,
            catalog_max=config.catalog.maxentries,
            tags_max=config.tags.maxtags,
            locate=names.locate,
            registry_at=names.registry,
            namespace_of=lambda repository: names.split(repository).namespace,
            access=gate.access,
            forbids=gate.forbids,
            listed=gate.listed,
            access_log=not config.log.accesslog.disabled,
            proxies=config.http.trustedproxies,
            lessor=registry if config.http.fastlane else None,
            public_url=config.http.host.rstrip("/"),
            limits=limits_of(config.http.limits),
            write_timeout=config.http.limits.writetimeout,
            keepalive_timeout=config.http.limits.idletimeout,
            gate=operations.gate,
            warnings=lambda: [*remarks, *operations.warnings(), *appupstreams.warnings(upstream, names)],
            account=operations.account,
            notify=operations.notifier.tell if operations.notifier is not None else None,
        ),
    )
    lane = app[connections.LANE]
    measures = appmetrics.Measures(
        operations,
        names,
        upstream,
        fills,
        keeping,
        app[connections.DOORS],
        lane.flush if lane is not None else lambda: None,
    )
    app[GATE] = operations.gate
    app[DEBUG] = debug.Debug(
        operations.checks.failures,
        measures.variables,
        measures.scraper() if config.http.debug.prometheus.enabled else None,
        config.http.debug.prometheus.path,
    )

    async def explain(image: str) -> dict[str, Any]:
        outlook = keeping.keeper.outlook
        return await appupstreams.explain(image, proxy, names, upstream, registry, outlook, gate.forbids)

    async def lifetime(_app: web.Application) -> AsyncGenerator[None, None]:
        await appstorage.start(driver)
        await ledger.open()
        sweeper = asyncio.create_task(_sweep(fills))
        socket_path = spool_folder.parent / control.SOCKET.name
        async with (
            operations.running(),
            keeping.running(),
            control.control(socket_path, explain, keeping.operate),
        ):
            yield
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        if gate.access is not None:
            await gate.access.close()
        await registry.close()
        await fills.close()
        await upstream.close()
        await ledger.close()
        await keeping.inventory.close()
        await driver.close()

    app.cleanup_ctx.append(lifetime)
    return app


def _create_users(config: Config) -> None:
    """The file of users, where one is named and there is none. Raises StartError."""
    try:
        appaccess.create_users(config.auth)
    except OSError as error:
        path = config.auth.htpasswd.path if config.auth.htpasswd else None
        raise StartError(f"auth.htpasswd.path: cannot make {path}: {error.strerror}") from error


def _stranger(names: Routes, repository: Repository) -> str:
    """The registry of this repository where only the open mode serves it; "" where it is configured."""
    namespace = names.split(repository).namespace
    return namespace if names.entry(namespace) == OPEN else ""


async def _sweep(fills: Fills) -> None:
    while True:
        try:
            await fills.sweep()
        except OSError as error:  # a folder that cannot be read now may be readable in an hour
            log.warning("spool.not_swept", reason=str(error))
        await asyncio.sleep(SWEEP_INTERVAL)


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    """The first signal drains; the second ends at once."""
    if stop.is_set():
        os._exit(128 + number)
    stop.set()


def _path(file: Path | None) -> str:
    return str(file.absolute()) if file else "none: defaults"
