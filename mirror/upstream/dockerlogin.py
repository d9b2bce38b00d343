"""docker's config.json as a source of credentials, read again when it changes.

It may be written by `docker login`, by a helper, or by an orchestrator that swaps a mounted secret, at any
time: a file that is broken or gone for a while takes nothing away. The last good one is used on.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from mirror.registry import Unavailable
from mirror.upstream.credentials import Credentials
from mirror.upstream.dockerconfig import DockerConfig, DockerConfigError, server_of
from mirror.upstream.helpers import Helpers

LOOK_SECONDS = 5.0  # between two looks at the file
SIZE_LIMIT = 1 << 20  # bytes; a login has some 100, and the longest tokens some 4 KiB

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another."""

    mtime_ns: int
    size: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of a look: the last good content, and what is the matter with the file as it is now."""

    config: DockerConfig | None = None
    trouble: str = ""  # empty for none
    stamp: Stamp | None = None  # of what was read, good or not


class DockerLogin:
    """A Source: a docker config.json, and the helpers that it names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._helpers = Helpers(None)
        self._loaded = Loaded()
        self._next_look = float("-inf")  # as in loop.time()
        self._looking = asyncio.Lock()

    async def get(self, host: str) -> Credentials:
        """What a helper has for this host, else what `auths` has. Raises Unavailable."""
        config = await self._current()
        program = config.helper(host)
        if program:
            credentials = await self._helpers.get((program,), server_of(host))
            if not credentials.is_empty:
                return credentials
        return config.login(host)

    def refused(self, credentials: Credentials) -> None:
        """Ask the helper again that gave them; the file is looked at anyway."""
        self._helpers.refused(credentials)

    async def close(self) -> None:
        """End the helpers that run."""
        await self._helpers.close()

    async def _current(self) -> DockerConfig:
        """The content as of LOOK_SECONDS ago or later. Raises Unavailable if there never was a good one."""
        time = asyncio.get_running_loop().time
        if self._loaded.config is None or not self._looking.locked():  # else a slow disk would hold everybody
            async with self._looking:
                if time() >= self._next_look:
                    await self._look()
                    self._next_look = time() + LOOK_SECONDS
        if self._loaded.config is None:
            pause = max(0.0, self._next_look - time())
            raise Unavailable("the configured docker config.json cannot be used", retry_after=pause)
        return self._loaded.config

    async def _look(self) -> None:
        """Read the file if it has changed; a trouble is told once."""
        last, self._loaded = self._loaded, await asyncio.to_thread(_load, self._path, self._loaded)
        trouble, kept = self._loaded.trouble, self._loaded.config is not None
        if trouble and trouble != last.trouble:
            _log.warning("upstream.dockerconfig.unusable", path=str(self._path), cause=trouble, kept=kept)


def _load(path: Path, last: Loaded) -> Loaded:
    """Look at the file, and read it unless it is as it was. Blocks."""
    stamp = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us
        with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
            stamp = _stamp(os.fstat(descriptor))
            if stamp == last.stamp:
                return last
            body = file.read(SIZE_LIMIT + 1)
        if len(body) > SIZE_LIMIT:
            raise DockerConfigError(f"it is larger than {SIZE_LIMIT >> 20} MiB")
        return Loaded(DockerConfig.parse(body), "", stamp)
    except DockerConfigError as error:
        return Loaded(last.config, str(error), stamp)
    except OSError as error:
        return Loaded(last.config, error.strerror or type(error).__name__)


def _stamp(status: os.stat_result) -> Stamp:
    """Raises DockerConfigError for what is no file."""
    if not stat.S_ISREG(status.st_mode):
        raise DockerConfigError("it is not a file")
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
