"""The image, built without a network on a base of the host's own Debian release, and a docker to run it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Dockerd
from tests.support.mirror_process import ROOT
from tests.support.procs import NOWHERE, Workspace
from tests.support.programs import find, missing, require, require_root

BASE = "base:test"
IMAGE = "mirror:test"
PREPARE_TIMEOUT = 600.0  # seconds for debootstrap, and for a build: measured 80 and 30 on two busy cores
INCLUDE = "python3,python3-venv"
# Of no use in a base image; vfs copies all of a layer for each step of a build.
WITHOUT = ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man", "dev"]


def run(argv: list[str], **options: str | Path) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(
        [find(argv[0]), *argv[1:]],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PREPARE_TIMEOUT,
        **options,  # type: ignore[call-overload] # only cwd is passed
    )
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-4000:]}"
    return str(done.stdout)


def debian() -> tuple[str, str]:
    """The host's release, and the package mirror that this machine uses for it."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if release is None or shutil.which("apt-get") is None:
        missing("the base image is made from a Debian host's own release")
    form = "$(IDENTIFIER) $(RELEASE) $(REPO_URI)"
    listed = [line.split() for line in run(["apt-get", "indextargets", "--format", form]).splitlines()]
    uris = [uri for identifier, name, uri in listed if (identifier, name) == ("Packages", release[1])]
    if not uris:
        missing(f"apt knows no mirror of {release[1]}")
    return release[1], uris[0]


@pytest.fixture(scope="session")
def docker(space: Workspace) -> Dockerd:
    """A dockerd that has `base:test`, a minimal Debian with Python, and nothing else."""
    require_root()
    require("debootstrap", "tar", "runc")
    dockerd = Dockerd(space, NOWHERE, storage_driver="")
    root = space.folder("rootfs")
    release, uri = debian()
    run(["debootstrap", "--variant=minbase", f"--include={INCLUDE}", release, str(root), uri])
    # without bytecode, as python:3.13-slim
    without = ["--exclude=__pycache__", *(f"--exclude=./{path}/*" for path in WITHOUT)]
    archive = root.with_suffix(".tar")
    run(["tar", "-C", str(root), "-cf", str(archive), *without, "."])
    shutil.rmtree(root)
    dockerd.ask(dockerd.docker("import", str(archive), BASE), PREPARE_TIMEOUT)
    archive.unlink()
    return dockerd


@pytest.fixture(scope="session")
def context(space: Workspace) -> Iterator[Path]:
    """The project as a build context, with all wheels in it."""
    folder = space.folder("context")
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in listed.splitlines():
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # A checkout under a strict umask must give the same image.
    for path in [folder / "docker", *folder.glob("docker/*"), *folder.glob("mirror/**/*")]:
        path.chmod(0o700)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", "wheels"]
    run([*wheel, "--constraint", "constraints.txt", ".", "setuptools>=65"], cwd=folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(docker: Dockerd, context: Path) -> str:
    """The image's name. The build has no network but loopback, and the legacy builder."""
    docker.env["DOCKER_BUILDKIT"] = "0"
    build = docker.docker("build", "--network", "none", "--build-arg", f"BASE={BASE}", "--tag", IMAGE)
    docker.ask([*build, str(context)], PREPARE_TIMEOUT)
    return IMAGE
