"""Long operations in a process of their own, where no mirror runs that could be asked.

Two that delete at the same time would take from one another what they count on. So whoever deletes holds a
lock in the data folder: the mirror in each of its passes, a command from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from mirror import appkeeping, appstorage, appupstreams
from mirror.cache.lock import Lock
from mirror.cache.surveyor import Surveyor
from mirror.config import Config
from mirror.configremote import local_root
from mirror.ledger.inventory import NotKept, SurveyLost
from mirror.oci.reference import ImageError
from mirror.registry import RegistryError
from mirror.server.operations import Event, Operate
from mirror.store import layout

OURS: Final = "mirror"  # below the root directory: the mirror's own folder
SURVEYING: Final = "looking at all that is kept, files"
TELL: Final = 0.5  # seconds between two words about a survey
LOCK: Final = Path(OURS, appkeeping.LOCK)


class CommandError(Exception):
    """The operation cannot begin; the text says why and what to do."""


async def offline(config: Config, operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
    """The operation's events, as the running mirror tells them. Raises CommandError before the first.

    A verification takes hours and deletes hardly anything: a mirror that is started meanwhile may evict.
    """
    root = root_of(config)
    lock = held(root) if operation != "verify" else contextlib.nullcontext()
    with lock:
        async with opened(config, root) as operate, aclosing(_told(operate(operation, options))) as events:
            async for event in events:
                yield event


@contextlib.asynccontextmanager
async def opened(config: Config, root: Path) -> AsyncGenerator[Operate, None]:
    """What is kept below `root`, without anything that serves it. The caller holds the lock."""
    driver = appstorage.driver(config)
    built = appkeeping.build(config, driver, root / OURS, appupstreams.routes(config.proxy))
    keeping = dataclasses.replace(built, lock=Lock(None))

    async def operate(operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
        if operation == "purge" and not keeping.inventory.complete:  # it goes by the inventory
            async with aclosing(_surveyed(keeping.surveyor)) as steps:
                async for step in steps:
                    yield step
        async with aclosing(keeping.operate(operation, options)) as events:
            async for event in events:
                yield event

    await driver.start()
    await keeping.inventory.open()
    try:
        yield operate
    finally:
        await keeping.inventory.close()
        await driver.close()


def root_of(config: Config) -> Path:
    """The folder that has the mirror's own in it, and something of a registry, unless that is in a bucket.

    Raises CommandError where there is none.
    """
    root = local_root(config)
    if root is None:
        raise CommandError("this configuration keeps images in memory: only the running mirror has them")
    try:
        if config.storage.filesystem is None:
            root.mkdir(parents=True, exist_ok=True)
            return root
        found = any((root / folder).is_dir() for folder in (layout.ROOT, OURS))
    except OSError as error:
        text = f"cannot look into {root}: {error.strerror}; run this as the user that the mirror runs as"
        raise CommandError(text) from error
    if not found:
        raise CommandError(f"nothing of a registry is in {root}: see storage.filesystem.rootdirectory")
    return root


def become_owner(root: Path) -> None:
    """As root, go on as the user whose folder it is: the mirror could not use files that root has made.

    Raises CommandError.
    """
    ours = root / OURS
    try:
        owner = (ours if ours.is_dir() else root).stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
    except OSError as error:
        text = f"cannot go on as the owner of {ours}: {error.strerror}; run this as that user"
        raise CommandError(text) from error


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """The lock of who deletes, until the end of the block. Does not wait. Raises CommandError."""
    path = root / LOCK
    try:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        text = f"cannot open {path}: {error.strerror}"
        if isinstance(error, PermissionError):  # not on a disk that is read-only or full
            text += "; run this as the user that owns it"
        raise CommandError(text) from error
    try:
        _lock(file, root, path)
        yield
    finally:
        os.close(file)  # which lets go of the lock


def _lock(file: int, root: Path, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CommandError(
            f"another process cleans up in {root}, and holds {path}: try again when it has ended. If it is a "
            "mirror that cannot be asked at its control socket, its log says why (control.off)"
        ) from error
    except OSError as error:
        raise CommandError(f"cannot lock {path}: {error.strerror}") from error


async def _surveyed(surveyor: Surveyor) -> AsyncGenerator[Event, None]:
    """Look at all that is kept, and say how far that has come. Raises what `Surveyor.survey` raises."""
    survey = asyncio.create_task(surveyor.survey())
    try:
        while not survey.done():
            yield {"event": "progress", "done": surveyor.seen, "total": None, "what": SURVEYING}
            await asyncio.wait([survey], timeout=TELL)
    finally:
        survey.cancel()
        await asyncio.wait([survey])
    survey.result()


async def _told(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events; what stops them is the last one."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except RegistryError as error:
            yield {"event": "error", "error": error.message}
        except (ImageError, NotKept, SurveyLost, OSError) as error:
            yield {"event": "error", "error": str(error) or type(error).__name__}
