"""Faults in the system calls of the filesystem driver's threads: one that fails, or a machine that stops."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

WRITING = ("open", "write", "fsync", "link", "replace", "rename", "mkdir", "unlink", "rmdir")


@dataclass
class Syscalls:
    """Counts the calls that the driver's threads make, and lets chosen ones fail with an OSError.

    From the `fail_at`th call on (counted from 0) one fails, or all when `dead`: then nothing that
    happens later reaches the disk, as after a power cut.
    """

    fail_at: int | None = None
    dead: bool = False
    code: int = errno.EIO
    only: str | None = None
    seen: list[str] = field(default_factory=list)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in WRITING:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not threading.current_thread().name.startswith("filesystem"):
                return real(*args, **kwargs)
            if self.only in (None, name):
                index = len(self.seen)
                self.seen.append(name)
                if self.fail_at is not None and (
                    index == self.fail_at or (self.dead and index > self.fail_at)
                ):
                    raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call
