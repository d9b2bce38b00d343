"""containerd and dockerd, started here, stopped with the workspace. Both need root."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection

from tests.support.clients import HUB, Commands, Done, same
from tests.support.images import AMD64, Image
from tests.support.layers import sha256
from tests.support.procs import Service, Workspace, wait_until
from tests.support.programs import require, require_root

READY_TIMEOUT = 60.0  # seconds until a daemon answers; usually one
ASK_TIMEOUT = 5.0  # seconds for one look whether it does
# What is not needed here, or cannot work everywhere.
DISABLED = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.tracing",
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
]


class Containerd(Commands):
    """containerd, driven by ctr, with a hosts directory (certs.d) of its own."""

    name = "containerd"

    def __init__(self, space: Workspace, mirror: str | None = None, *, every: bool = False) -> None:
        """`every`: every registry's images come through the mirror (`_default`), not Docker Hub's alone."""
        super().__init__(space, self.name)
        require_root()
        require("containerd", "ctr")
        self.socket = self.folder / "c.sock"
        self.config = self.write("config.toml", self._config())
        if mirror is not None:
            hosts = f'[host."{mirror}"]\n  capabilities = ["pull", "resolve"]\n'
            server = "" if every else 'server = "https://registry-1.docker.io"\n\n'
            self.write(f"certs.d/{'_default' if every else HUB}/hosts.toml", server + hosts)
        self.service: Service
        self._start()

    def _config(self) -> str:
        return f"""version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
disabled_plugins = {json.dumps(DISABLED)}
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.folder}/t.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder}/opt"
"""

    def _start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.service = self.space.start(self.folder, ["containerd", "--config", str(self.config)], self.env)
        wait_until(self._ready, "containerd", READY_TIMEOUT, self.service)

    def _ready(self) -> bool:
        return self.socket.exists() and self.run(self.ctr("version"), ASK_TIMEOUT).ok

    def ctr(self, *args: str) -> list[str]:
        """A command line of ctr for this containerd."""
        return ["ctr", "--address", str(self.socket), "--namespace", "test", *args]

    def pull(self, ref: str, platform: str = AMD64) -> Done:
        # The "native" snapshotter works everywhere (overlay does not work on overlay).
        options = ["--hosts-dir", str(self.folder / "certs.d"), "--snapshotter", "native"]
        return self.run(self.ctr("images", "pull", *options, "--platform", platform, ref))

    def verify(self, image: Image, ref: str, platform: str = AMD64) -> None:
        want = image.platforms[platform]
        listed = [line.split() for line in self.ask(self.ctr("images", "ls")).splitlines()]
        digests = {words[0]: words[2] for words in listed}
        same(f"containerd {ref}: digest", digests.get(ref), image.digest)
        for digest in dict.fromkeys([image.digest, want.manifest, want.config, *want.layers]):
            same(f"containerd {ref}: content", self._content(digest), digest)

    def _content(self, digest: str) -> str:
        """The digest of the bytes that containerd holds under this digest."""
        # Its files rather than `ctr content get`: the same bytes, without a process for each.
        path = self.folder / "root/io.containerd.content.v1.content/blobs" / digest.replace(":", "/")
        return sha256(path.read_bytes()) if path.exists() else "absent"

    def clear(self) -> None:
        """Start anew with an empty store: ctr has no command to drop half-done downloads."""
        self.service.stop()
        for name in ("root", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._start()


class Dockerd(Commands):
    """dockerd with a registry mirror, on a containerd of its own.

    Only Docker Hub's images go through docker's registry-mirrors; any other name, such as
    "127.0.0.1:5000/team/app:1", is asked of the host in the name, over plain http on the loopback.
    """

    name = "dockerd"

    def __init__(
        self,
        space: Workspace,
        mirror: str,
        *,
        storage_driver: str = "vfs",
        insecure: Collection[str] = (),
        http_proxy: str = "",
    ) -> None:
        """vfs works everywhere; "" lets dockerd choose, which is quicker where images are large.

        `insecure`: other hosts that speak plain http. `http_proxy`: the URL by way of which it asks them.
        """
        super().__init__(space, self.name)
        require_root()
        require("dockerd", "docker")
        self.socket = self.folder / "d.sock"
        self._digests: dict[str, str] = {}  # by reference, as the last pull of it printed it
        # A containerd of its own: dockerd would otherwise use the machine's, if there is one.
        self.containerd = Containerd(space)
        config = {
            "registry-mirrors": [mirror],
            "insecure-registries": [*insecure],
            "hosts": [f"unix://{self.socket}"],
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "exec"),
            "pidfile": str(self.folder / "pid"),
            "containerd": str(self.containerd.socket),
            "containerd-namespace": "docker",
            "containerd-plugins-namespace": "docker-plugins",
            "storage-driver": storage_driver,
            # No network of its own: it must not touch the machine's routes and filters.
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "userland-proxy": False,
        }
        self.config = self.write("daemon.json", json.dumps(config, indent=1))
        if http_proxy:
            self.env["HTTP_PROXY"] = http_proxy
        self.env["DOCKER_CONFIG"] = str(self.folder / "cli")
        self.env["DOCKER_TMPDIR"] = str(self.folder / "tmp")
        self.service: Service
        self._start()

    def _start(self) -> None:
        self.socket.unlink(missing_ok=True)
        argv = ["dockerd", "--config-file", str(self.config)]
        self.service = self.space.start(self.folder, argv, self.env)
        wait_until(self._ready, "dockerd", READY_TIMEOUT, self.service)

    def _ready(self) -> bool:
        return self.socket.exists() and self.run(self.docker("version"), ASK_TIMEOUT).ok

    def docker(self, *args: str) -> list[str]:
        """A command line of docker for this dockerd."""
        return ["docker", "--host", f"unix://{self.socket}", *args]

    def pull(self, ref: str, platform: str = AMD64) -> Done:
        pulled = self.run(self.docker("pull", "--platform", platform, ref))
        # Not from "image inspect": of a multi-platform image, docker gives the digest only to the platform
        # that was pulled first.
        found = re.search(r"^Digest: (\S+)", pulled.output, re.MULTILINE)
        self._digests[ref] = found[1] if found else ""
        return pulled

    def verify(self, image: Image, ref: str, platform: str = AMD64) -> None:
        want = image.platforms[platform]
        facts = json.loads(self.ask(self.docker("image", "inspect", ref)))[0]
        same(f"docker {ref}: digest", self._digests.get(ref), image.digest)
        same(f"docker {ref}: image id", facts["Id"], want.config)
        same(f"docker {ref}: layers", facts["RootFS"].get("Layers") or [], want.diff_ids)

    def clear(self) -> None:
        """Start anew with an empty store: after "docker rmi" dockerd still has the manifests."""
        self.service.stop()
        for name in ("data", "exec"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.containerd.clear()
        self._start()

    def push(self, ref: str, target: str) -> Done:
        """Push what was pulled as `ref` to HOST:PORT/NAME:TAG, over plain http."""
        self.ask(self.docker("tag", ref, target))
        return self.run(self.docker("push", target))
