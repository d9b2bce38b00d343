"""Credential helpers as shell scripts."""

from __future__ import annotations

import shlex
from pathlib import Path


def script(folder: Path, body: str, name: str = "docker-credential-test") -> Path:
    """An executable shell script; `$here` is its folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nhere={shlex.quote(str(folder))}\n{body}\n")
    path.chmod(0o755)
    return path


class Scripted:
    """A helper that answers with what it is told, and notes each run with the server it was asked for."""

    def __init__(self, folder: Path, name: str = "docker-credential-test") -> None:
        self._answer = folder / f"{name}.answer"
        self._runs = folder / f"{name}.runs"
        self.path = script(
            folder,
            f'echo "$1 $(cat)" >> "$here/{name}.runs"\n. "$here/{name}.answer"',
            name,
        )
        self.fails()

    @property
    def runs(self) -> list[str]:
        """`get <server>` of each run so far."""
        return self._runs.read_text().splitlines() if self._runs.exists() else []

    def says(self, username: str, secret: str) -> None:
        """From now on its answer."""
        answer = f'{{"ServerURL":"x","Username":"{username}","Secret":"{secret}"}}'
        self._replace(f"echo {shlex.quote(answer)}")

    def has_none(self) -> None:
        """From now on there are no credentials."""
        self._replace("echo credentials not found in native keychain; exit 1")

    def fails(self) -> None:
        """From now on it ends with an error."""
        self._replace("echo no luck today >&2; exit 3")

    def _replace(self, body: str) -> None:
        new = self._answer.with_suffix(".new")
        new.write_text(body + "\n")
        new.replace(self._answer)
