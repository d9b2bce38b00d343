"""Which outside programs a test needs, and what happens where one is missing."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# Where Debian has each program.
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "debootstrap": "debootstrap",
    "docker": "docker.io (docker-cli where it is split off)",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "htpasswd": "apache2-utils",
    "memcached": "memcached",
    "mount": "mount",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "podman": "podman",
    "runc": "runc",
    "skopeo": "skopeo",
    "swift-account-server": "swift-account",
    "swift-container-server": "swift-container",
    "swift-object-server": "swift-object",
    "swift-proxy-server": "swift-proxy",
    "swift-ring-builder": "swift",
    "umount": "mount",
}
# A plain user's PATH may lack the sbin folders, where daemons live.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def find(program: str) -> str:
    """The program's path. Skips the test, or fails it under CI, when it is not installed."""
    found = shutil.which(program, path=SEARCH_PATH)
    if found is None:
        missing(f"{program} is not installed (Debian package {PACKAGES.get(program, program)})")
    return found


def require(*programs: str) -> None:
    """Go on only where all these programs are installed."""
    for program in programs:
        find(program)


def require_root() -> None:
    """Go on only as root: daemons and mounts need it."""
    if os.geteuid() != 0:
        missing("needs root")


def missing(reason: str) -> NoReturn:
    """Skip the test; fail it under CI, where a skipped proof would pass for a proof."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
