"""Real clients pull through the mirror in TLS, with its CA in the place where each looks for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.certificates import Pair, issued, self_signed
from tests.support.clients import Client, Commands, Podman, Skopeo, hub_ref
from tests.support.daemons import Containerd, Dockerd
from tests.support.images import Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.registries import Registry

pytestmark = pytest.mark.clients


def trust(client: Commands, mirror: MirrorProcess, ca: Path, own: Pair) -> None:
    """As docs/configuration.md says it: podman's and skopeo's folder of certificates."""
    folder = client.folder / f".config/containers/certs.d/{mirror.host}"
    folder.mkdir(parents=True)
    shutil.copyfile(ca, folder / "ca.crt")
    shutil.copyfile(own[0], folder / "client.cert")
    shutil.copyfile(own[1], folder / "client.key")
    path = client.folder / ".config/containers/registries.conf"
    path.write_text(path.read_text().replace("insecure = true", "insecure = false"))


def containerd(space: Workspace, mirror: MirrorProcess, ca: Path, own: Pair) -> Client:
    made = Containerd(space, f"https://{mirror.host}")
    hosts = made.folder / "certs.d/docker.io/hosts.toml"
    with hosts.open("a") as file:
        file.write(f'  ca = "{ca}"\n  client = [["{own[0]}", "{own[1]}"]]\n')
    return made


def podman(space: Workspace, mirror: MirrorProcess, ca: Path, own: Pair) -> Client:
    made = Podman(space, f"https://{mirror.host}")
    trust(made, mirror, ca, own)
    return made


def skopeo(space: Workspace, mirror: MirrorProcess, ca: Path, own: Pair) -> Client:
    made = Skopeo(space, f"https://{mirror.host}")
    trust(made, mirror, ca, own)
    return made


def dockerd(space: Workspace, mirror: MirrorProcess, _ca: Path, _own: Pair) -> Client:
    return Dockerd(space, f"https://{mirror.host}")  # does not check the certificate of 127.0.0.1


@pytest.mark.parametrize(
    ("start", "with_certificate"),
    [
        (skopeo, False),
        (skopeo, True),
        (podman, False),
        (podman, True),
        (containerd, False),
        (containerd, True),
        (dockerd, False),
    ],
)
def test_a_client_pulls_cold_and_warm_in_tls(
    space: Workspace,
    upstream: Registry,
    catalog: Catalog,
    tmp_path: Path,
    start: Callable[[Workspace, MirrorProcess, Path, Pair], Client],
    with_certificate: bool,
) -> None:
    """Also with a certificate of its own, without which it would not be let in."""
    ca = self_signed(tmp_path, "ca")
    pair = issued(tmp_path, "server", ca)
    own = issued(tmp_path, "client", ca)
    tls = {"certificate": str(pair[0]), "key": str(pair[1])}
    more = {"clientcas": [str(ca[0])]} if with_certificate else {}
    mirror = MirrorProcess(space, upstream.url, name="tls", config={"http": {"tls": {**tls, **more}}})
    client = start(space, mirror, ca[0], own)
    image = catalog["library/small:1"]
    for _ in range(2):
        client.clear()
        done = client.pull(hub_ref(image))
        assert done.ok, done.output
        client.verify(image, hub_ref(image))
    assert mirror.log.count("response completed") >= 6
    assert "level=error" not in mirror.log
    assert mirror.stop() == 0
