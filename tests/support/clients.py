"""Real clients, each in a folder of its own, set up to pull through a mirror, and what they got.

All have the same methods; `ref` is what a user would type, such as "docker.io/library/small:1": the mirror
comes from the client's configuration, as on a user's machine. podman and skopeo are here, the daemons in
`daemons`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from tests.support.images import AMD64, Image
from tests.support.layers import sha256
from tests.support.procs import HarnessError, Workspace, client_env
from tests.support.programs import find

HUB = "docker.io"
COMMAND_TIMEOUT = 60.0  # seconds; a cold pull of the largest image takes two


class Mismatch(AssertionError):
    """A client holds another image than the one that was pushed."""


@dataclass(frozen=True, slots=True)
class Done:
    """How one command went."""

    ok: bool
    output: str  # both streams
    seconds: float


class Client(Protocol):
    """What tests ask of a client."""

    name: str

    def pull(self, ref: str, platform: str = AMD64) -> Done:
        """Pull one platform's image. Never raises when the pull fails."""

    def verify(self, image: Image, ref: str, platform: str = AMD64) -> None:
        """Raises Mismatch unless what was pulled is this image."""

    def clear(self) -> None:
        """Forget all that was pulled, so that the next pull asks again."""


def hub_ref(image: Image) -> str:
    """The image's name as an image of Docker Hub."""
    return f"{HUB}/{image.ref}"


def same(what: str, got: object, wanted: object) -> None:
    """Raises Mismatch unless they are equal."""
    if got != wanted:
        raise Mismatch(f"{what}: got {got}, wanted {wanted}")


class Commands:
    """Commands in a folder and an environment of their own."""

    def __init__(self, space: Workspace, name: str) -> None:
        self.space = space
        self.folder = space.folder(name)
        self.env = client_env(self.folder)

    def run(self, argv: list[str], timeout: float = COMMAND_TIMEOUT) -> Done:
        """Run a command to its end, or end it after `timeout` seconds; log its output."""
        began = time.monotonic()
        process = subprocess.Popen(
            [find(argv[0]), *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            start_new_session=True,
        )
        with process:
            try:
                output = process.communicate(timeout=timeout)[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output = process.communicate()[0].decode(errors="replace") + "\n[timed out]"
            except BaseException:  # interrupted: leave no command behind
                os.killpg(process.pid, signal.SIGKILL)
                raise
        with (self.space.logs / f"{self.folder.name}-commands.log").open("a") as log:
            log.write(f"$ {' '.join(argv)}\n{output}\n[exit {process.returncode}]\n")
        return Done(process.returncode == 0, output, time.monotonic() - began)

    def ask(self, argv: list[str], timeout: float = COMMAND_TIMEOUT) -> str:
        """The output of a command. Raises HarnessError when it fails."""
        done = self.run(argv, timeout)
        if not done.ok:
            raise HarnessError(f"{' '.join(argv)}: {done.output}")
        return done.output

    def write(self, path: str, text: str) -> Path:
        """Write a file in the folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def use_mirror(self, mirror: str, prefixes: Mapping[str, str] | None = None) -> None:
        """A registries.conf that sends images to a plain http mirror (podman, skopeo).

        `prefixes`: by registry, the path below the mirror where its images are; Docker Hub's alone, at the
        root, when not given. HOME is this folder, and a user's file replaces the machine's. "insecure" lets
        them fall back to plain http after they have tried TLS: the mirror sees a TLS hello first. So do the
        registries, so that one on this machine can be the origin to go back to.
        """
        lines = []
        for registry, prefix in ({HUB: ""} if prefixes is None else prefixes).items():
            lines += ["[[registry]]", f'location = "{registry}"', "insecure = true", "[[registry.mirror]]"]
            lines += [f'location = "{urlsplit(mirror).netloc}{prefix}"', "insecure = true", ""]
        self.write(".config/containers/registries.conf", "\n".join(lines))


class Podman(Commands):
    """podman with a storage of its own (vfs, so that nothing is mounted)."""

    name = "podman"

    def __init__(self, space: Workspace, mirror: str, prefixes: Mapping[str, str] | None = None) -> None:
        super().__init__(space, self.name)
        find("podman")
        self.use_mirror(mirror, prefixes)
        storage = f"""[storage]
driver = "vfs"
graphroot = "{self.folder}/store"
runroot = "{self.folder}/runroot"
"""
        engine = f"""[engine]
tmp_dir = "{self.folder}/libpod"
lock_type = "file"
events_logger = "none"
"""
        self.env["CONTAINERS_STORAGE_CONF"] = str(self.write("storage.conf", storage))
        self.env["CONTAINERS_CONF"] = str(self.write("containers.conf", engine))

    def pull(self, ref: str, platform: str = AMD64) -> Done:
        return self.run(["podman", "pull", "--platform", platform, ref])

    def verify(self, image: Image, ref: str, platform: str = AMD64) -> None:
        want = image.platforms[platform]
        facts = json.loads(self.ask(["podman", "image", "inspect", ref]))[0]
        same(f"podman {ref}: image id", "sha256:" + facts["Id"], want.config)
        digests = {entry.split("@")[1] for entry in facts["RepoDigests"]}
        same(f"podman {ref}: has the repo digest", image.digest in digests, True)
        same(f"podman {ref}: layers", facts["RootFS"].get("Layers") or [], want.diff_ids)

    def clear(self) -> None:
        self.ask(["podman", "rmi", "--all", "--force", "--ignore"])

    def push(self, ref: str, target: str) -> Done:
        """Push what was pulled as `ref` to HOST:PORT/NAME:TAG, over plain http."""
        return self.run(["podman", "push", "--tls-verify=false", ref, target])


class Skopeo(Commands):
    """skopeo copying to a folder, every byte unchanged."""

    name = "skopeo"

    def __init__(self, space: Workspace, mirror: str, prefixes: Mapping[str, str] | None = None) -> None:
        super().__init__(space, self.name)
        find("skopeo")
        self.use_mirror(mirror, prefixes)

    def pull(self, ref: str, platform: str = AMD64) -> Done:
        self.clear()
        options = ["--insecure-policy"]
        for name, part in zip(("os", "arch", "variant"), platform.split("/"), strict=False):
            options += [f"--override-{name}", part]
        copy = ["copy", "--quiet", "--preserve-digests", f"docker://{ref}", f"dir:{self.folder}/copy"]
        return self.run(["skopeo", *options, *copy])

    def verify(self, image: Image, ref: str, platform: str = AMD64) -> None:
        want = image.platforms[platform]
        digests = {}
        for path in (self.folder / "copy").iterdir():
            digests[path.name] = sha256(path.read_bytes())
        same(f"skopeo {ref}: manifest", digests.get("manifest.json"), want.manifest)
        for digest in [want.config, *want.layers]:
            same(f"skopeo {ref}: blob", digests.get(digest.split(":")[1]), digest)

    def clear(self) -> None:
        shutil.rmtree(self.folder / "copy", ignore_errors=True)

    def push(self, _ref: str, target: str) -> Done:
        """Push what was pulled last to HOST:PORT/NAME:TAG, over plain http."""
        copy = ["copy", "--quiet", "--dest-tls-verify=false", f"dir:{self.folder}/copy", f"docker://{target}"]
        return self.run(["skopeo", "--insecure-policy", *copy])
