"""Configurations for the tests of that room: as a file's text and variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mirror.configfile import Loaded, Warning_, load

MINIMAL = "version: 0.1\nstorage: {inmemory: {}}\n"
DOCKER_HUB = "proxy.remoteurl: not set, so Docker Hub is mirrored"


def load_text(folder: Path, text: str, **environ: str) -> Loaded:
    """What a file with this text, and these variables, come to."""
    return load(write(folder, text), environ)


def load_env(environ: Mapping[str, str]) -> Loaded:
    """What these variables come to without a file."""
    return load(None, environ)


def write(folder: Path, text: str) -> Path:
    """The file `config.yml` in the folder."""
    path = folder / "config.yml"
    path.write_text(text, encoding="utf-8")
    return path


def remarks(loaded: Loaded) -> list[Warning_]:
    """The warnings but the one that a file without `proxy.remoteurl` gets, as the minimal one."""
    return [warning for warning in loaded.warnings if DOCKER_HUB not in str(warning)]
