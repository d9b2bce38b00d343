"""The composition root: Config -> driver -> store -> upstream -> cache -> server, and their lifetimes.

The only place that reads `Config`. It joins rooms and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from pydantic import SecretStr

from mirror import __version__
from mirror import log as logging
from mirror.cache.fills import RUNNING_LIMIT, Fills
from mirror.cache.pullthrough import PullThrough
from mirror.cache.spool import Spool
from mirror.config import Config, Storage
from mirror.configfile import Loaded
from mirror.drivers import probe
from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.server import connections, limits, routes
from mirror.server.settings import Settings as ServerSettings
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.upstream.client import Client
from mirror.upstream.settings import Settings as UpstreamSettings

SWEEP_INTERVAL = 3600.0  # seconds between two looks for spool files that nobody came back for
NO_WAIT = 0.01  # seconds; aiohttp takes 0 for "no limit", and http.draintimeout 0 means "do not wait"
# NB: aiohttp waits twice for `shutdown_timeout`: for handlers to end, and again after it has told them so,
# which ours, that wait for no body, do not hear.
SHUTDOWNS = 2
METADATA_CONNECTIONS = 16  # to the upstream, beside those of the fills: manifests must not wait for layers
LISTEN_ADVICE = {
    errno.EADDRINUSE: "Stop what uses it, or choose another port.",
    errno.EACCES: "Ports below 1024 are for root: choose a higher one.",
    errno.EADDRNOTAVAIL: "No network interface of this machine has that address.",
}
SPOOL = Path("mirror", "spool")  # below the root directory

log = structlog.get_logger()


class StartError(Exception):
    """The mirror cannot start; the text says why and what to do."""


async def serve(loaded: Loaded, file: Path | None) -> None:
    """Serve what `file` says until SIGTERM or SIGINT, then drain. Raises StartError."""
    config = loaded.config
    logging.configure(config.log.level, config.log.formatter, config.log.fields)
    limits.raise_open_files()
    for warning in loaded.warnings:
        log.warning("config.warning", detail=str(warning))
    with storage(config.storage) as (driver, spool_folder):
        app = build(config, driver, spool_folder)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=config.http.draintimeout / SHUTDOWNS or NO_WAIT,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, stop, number)
        await runner.setup()
        try:
            addr = await _listen(runner, config.http.addr.host, config.http.addr.port)
            log.info(
                "mirror.started",
                version=__version__,
                addr=addr,
                config=_path(file),
                upstream=config.proxy.remoteurl,
                login=config.proxy.username or ("identity token" if config.proxy.identitytoken else "none"),
                storage=str(spool_folder.parent.parent) if config.storage.filesystem else driver.name,
            )
            await stop.wait()
            log.info("mirror.stopping", draintimeout=f"{config.http.draintimeout:g}s")
        finally:
            await runner.cleanup()
    log.info("mirror.stopped")


def build(config: Config, driver: StorageDriver, spool_folder: Path) -> web.Application:
    """All rooms joined. What lives in time starts and stops with the application; the driver does so too."""
    proxy = config.proxy
    store = ContentStore(driver)
    upstream = Client(
        UpstreamSettings(
            remoteurl=proxy.remoteurl,
            username=proxy.username,
            password=_reveal(proxy.password),
            identity_token=_reveal(proxy.identitytoken),
            realms=proxy.realms,
            ca_file=proxy.ca,
            connect=proxy.timeouts.connect,
            firstbyte=proxy.timeouts.firstbyte,
            stall=proxy.timeouts.stall,
            retries=proxy.retries,
            connections=RUNNING_LIMIT + METADATA_CONNECTIONS,
            user_agent=f"mirror/{__version__}",
        )
    )
    fills = Fills(upstream, store, Spool(spool_folder))
    registry = PullThrough(
        store,
        upstream,
        fills,
        deadline=proxy.deadline,
        descriptors=config.storage.cache.blobdescriptorsize,
    )
    host = _host(proxy.remoteurl)
    app = routes.build(
        registry,
        ServerSettings(
            prefix=config.http.prefix,
            headers=config.http.headers,
            catalog_max=config.catalog.maxentries,
            tags_max=config.tags.maxtags,
            namespace_of=lambda _repository: host,
            access_log=not config.log.accesslog.disabled,
        ),
    )

    async def lifetime(_app: web.Application) -> AsyncGenerator[None, None]:
        sweeper = asyncio.create_task(_sweep(fills))
        yield
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await registry.close()
        await fills.close()
        await upstream.close()
        await driver.close()

    app.cleanup_ctx.append(lifetime)
    return app


@contextlib.contextmanager
def storage(settings: Storage) -> Iterator[tuple[StorageDriver, Path]]:
    """The driver, and the local folder for unfinished fills."""
    if settings.filesystem is None:
        with tempfile.TemporaryDirectory(prefix="mirror-spool-") as folder:
            yield InMemoryDriver(), Path(folder)
        return
    root = settings.filesystem.rootdirectory.absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        kept = any((root / folder).exists() for folder in layout.FOLDERS)
    except OSError as error:
        raise StartError(
            f"storage.filesystem.rootdirectory: cannot use {root}: {error.strerror}. "
            f"Make it a folder that user {os.geteuid()} can write, or name another one."
        ) from error
    for refusal in probe.refusals(root, (*layout.FOLDERS, str(SPOOL))):
        text = probe.advice(refusal, root)
        if not kept:
            raise StartError(f"storage.filesystem.rootdirectory: {text}.")
        log.warning("storage.readonly", detail=f"{text}. What is kept is served, new content is not kept.")
    yield FilesystemDriver(root, settings.filesystem.maxthreads), root / SPOOL


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    """Accept connections; returns the address, with the port that was taken for port 0. Raises StartError."""
    address = f"{host}:{port}"
    try:
        await connections.Site(runner, host or None, port).start()
    except socket.gaierror as error:
        raise StartError(f"http.addr: cannot listen on {address}: the name {host} has no address.") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = LISTEN_ADVICE.get(error.errno or 0, "Choose another address.")
        raise StartError(f"http.addr: cannot listen on {address}: {reason}. {advice}") from error
    return f"{host}:{runner.addresses[0][1]}"


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


def _host(remoteurl: str) -> str:
    """What people call the upstream when they push."""
    host = urlsplit(remoteurl).netloc
    return "docker.io" if host == "registry-1.docker.io" else host


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
