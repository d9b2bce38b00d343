"""The mirror under test as its users run it: a process with a configuration file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tests.support.modes import ENVIRONMENT
from tests.support.procs import Workspace
from tests.support.registries import RegistryProcess

ROOT = Path(__file__).resolve().parents[2]


class MirrorProcess(RegistryProcess):
    """`mirror serve FILE` with filesystem storage, started: a mirror of `remote_url`.

    `program`: another way to serve, a file of Python.
    """

    def __init__(
        self,
        space: Workspace,
        remote_url: str,
        *,
        name: str = "mirror",
        login: tuple[str, str] | None = None,
        config: dict[str, Any] | None = None,
        storage: Path | None = None,
        env: dict[str, str] | None = None,
        program: str = "",
    ) -> None:
        config = {"log": {"level": "debug"}, **(config or {})}
        self._own_env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        argv = [sys.executable, program] if program else [sys.executable, "-m", "mirror", "serve"]
        super().__init__(space, name, argv, config, storage=storage)
        self._given_env = self.env
        self.point_at(remote_url, login)
        self.start()

    def start(self) -> None:
        """In the mode that the test runs in now."""
        self.env = {**self._given_env, **ENVIRONMENT, **self._own_env}
        super().start()

    def point_at(self, remote_url: str, login: tuple[str, str] | None = None) -> None:
        """Mirror another upstream, from the next start on."""
        proxy = {**self.config.get("proxy", {}), "remoteurl": remote_url}
        if login is not None:
            proxy["username"], proxy["password"] = login
        self.config = {**self.config, "proxy": proxy}

    def fresh(self, remote_url: str, login: tuple[str, str] | None = None) -> None:
        """Start anew with nothing kept, on the same port, for another upstream."""
        self.stop()
        shutil.rmtree(self.storage, ignore_errors=True)
        self.config = {key: value for key, value in self.config.items() if key != "proxy"}
        self.point_at(remote_url, login)
        self.start()

    def spooled(self) -> list[Path]:
        """The unfinished fills that have bytes."""
        found = []
        for path in (self.storage / "mirror" / "spool").rglob("*"):
            try:
                if path.is_file() and path.stat().st_size:
                    found.append(path)
            except FileNotFoundError:
                continue  # finished between the two looks
        return found
