"""Several registries behind one mirror, each with a login of its own, pulled by real clients.

Three docker-registries play Docker Hub (tokens), Quay (Basic) and GitHub's registry (tokens). They have
images of the same names and of different bytes, so that a wrong way shows at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.clients import HUB, Client, Podman, Skopeo
from tests.support.daemons import Containerd, Dockerd
from tests.support.images import Catalog, generate
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.recorder import Recorder
from tests.support.registries import Registry, basic_auth, htpasswd, push
from tests.support.tokenserver import TokenServer

pytestmark = pytest.mark.clients

QUAY, GITHUB = "quay.io", "ghcr.io"
NAMESPACES = (HUB, QUAY, GITHUB)
IMAGES = ("library/small:1", "library/multi:1", "team/project/sub_group/app-name:V1.2.3_rc-4")
# As a path below the mirror: podman does not say which registry it means, so its configuration does.
PREFIXES = {HUB: "", QUAY: f"/{QUAY}", GITHUB: f"/{GITHUB}"}


@dataclass(frozen=True, slots=True)
class Origin:
    """One of the three: what it has, who may read it, and what it was asked."""

    catalog: Catalog
    login: tuple[str, str]
    recorder: Recorder
    tokens: TokenServer | None  # None: it wants Basic authentication

    def clear(self) -> None:
        self.recorder.clear()
        if self.tokens is not None:
            self.tokens.requests.clear()

    def credentials(self) -> set[str]:
        """Every Authorization that it and its token server were sent, but the tokens that it gave."""
        sent = {e.request_headers.get("authorization", "") for e in self.recorder.exchanges}
        if self.tokens is not None:
            sent = {each for each in sent if not each.startswith("Bearer ")}
            sent |= {request.authorization for request in self.tokens.requests}
        return sent - {""}


def _origin(space: Workspace, number: int, namespace: str) -> Origin:
    """Images of its own seed, pushed while it is open to all; then it wants a login."""
    catalog = generate(seed=number)
    catalog.images[:] = [image for image in catalog.images if image.ref in IMAGES]
    login = (f"reader-of-{namespace}", f"word {number}: for {namespace}")
    opened = Registry(space, f"{namespace}-open")
    push(opened.url, catalog)
    opened.stop()
    tokens = None if namespace == QUAY else TokenServer(space.folder(f"{namespace}-tokens"), login)
    auth = htpasswd(space.folder(f"{namespace}-logins"), login) if tokens is None else tokens.auth
    registry = Registry(space, namespace, auth=auth, storage=opened.storage)
    recorder = Recorder(registry.url)
    space.on_close(recorder.stop)
    if tokens is not None:
        space.on_close(tokens.stop)
    return Origin(catalog, login, recorder, tokens)


@pytest.fixture(scope="module")
def _origins(space: Workspace) -> dict[str, Origin]:
    return {namespace: _origin(space, n, namespace) for n, namespace in enumerate(NAMESPACES, 1)}


@pytest.fixture
def origins(_origins: dict[str, Origin]) -> dict[str, Origin]:
    """By namespace; nothing was asked of them yet."""
    for origin in _origins.values():
        origin.clear()
    return _origins


@pytest.fixture(scope="module")
def one_mirror(space: Workspace, _origins: dict[str, Origin]) -> Iterator[MirrorProcess]:
    """One process for all three."""
    hub, *others = NAMESPACES
    entry = {name: _entry(origin) for name, origin in _origins.items()}
    proxy = {**entry[hub], "aliases": [HUB], "upstreams": {name: entry[name] for name in others}}
    url = proxy.pop("remoteurls")[0]
    mirror = MirrorProcess(space, url, name="one", config={"proxy": proxy})
    yield mirror
    mirror.stop()


def _entry(origin: Origin) -> dict[str, Any]:
    username, password = origin.login
    return {"remoteurls": [origin.recorder.url], "username": username, "password": password}


@pytest.fixture(params=["skopeo", "podman", "containerd", "dockerd"])
def everywhere(request: pytest.FixtureRequest, space: Workspace, one_mirror: MirrorProcess) -> Client:
    """A client whose configuration sends the images of all three registries to the mirror."""
    match request.param:
        case "skopeo":
            return Skopeo(space, one_mirror.url, PREFIXES)
        case "podman":
            return Podman(space, one_mirror.url, PREFIXES)
        case "containerd":
            return Containerd(space, one_mirror.url, every=True)
        case _:
            return Dockerd(space, one_mirror.url)


def name_for(client: Client, mirror: MirrorProcess, namespace: str, ref: str) -> str:
    """What a user types. docker has mirrors for Docker Hub alone: others are named by way of the mirror."""
    if client.name == "dockerd" and namespace != HUB:
        return f"{mirror.host}/{namespace}/{ref}"
    return f"{namespace}/{ref}"


def test_images_of_three_registries_with_three_logins_come_through_one_mirror(
    everywhere: Client, one_mirror: MirrorProcess, origins: dict[str, Origin]
) -> None:
    """Every digest is right, and each upstream (and its token server) saw its own login and no other's."""
    cold = everywhere.name == "skopeo"  # the first of the four: the others find all of it kept
    for namespace, origin in origins.items():
        for ref in IMAGES:
            image, name = origin.catalog[ref], name_for(everywhere, one_mirror, namespace, ref)
            done = everywhere.pull(name)
            assert done.ok, f"{name}: {done.output}\n{one_mirror.service.tail()}"
            everywhere.verify(image, name)
    logins = {namespace: origin.login for namespace, origin in origins.items()}
    for namespace, origin in origins.items():
        own = {basic_auth(logins[namespace])}
        assert origin.credentials() <= own, f"{namespace} saw somebody else's login"
        assert not cold or origin.credentials() == own, f"{namespace} did not see its login"
        assert not cold or origin.recorder.select("GET", "/blobs/"), f"{namespace} was not asked"


def test_on_disk_the_default_registry_has_registry_2s_tree_and_the_others_are_below_their_names(
    one_mirror: MirrorProcess, origins: dict[str, Origin], space: Workspace
) -> None:
    client, ref = Skopeo(space, one_mirror.url, PREFIXES), IMAGES[0]
    name = origins[HUB].catalog[ref].name
    for namespace in NAMESPACES:
        done = client.pull(f"{namespace}/{ref}")
        assert done.ok, done.output
    repositories = one_mirror.storage / "docker/registry/v2/repositories"
    for namespace, folder in {HUB: name, QUAY: f"{QUAY}/{name}", GITHUB: f"{GITHUB}/{name}"}.items():
        wanted = origins[namespace].catalog[ref].digest.replace(":", "/")
        assert (repositories / folder / "_manifests/revisions" / wanted / "link").exists(), namespace


def test_a_registry_that_the_mirror_does_not_serve_is_not_asked_by_it_and_clients_go_on(
    one_mirror: MirrorProcess, origins: dict[str, Origin], space: Workspace
) -> None:
    """containerd's `_default` sends it everything: 404, and the pull goes on at the registry itself."""
    ref = IMAGES[0]
    origin = Registry(space, "not-mirrored")
    push(origin.url, origins[HUB].catalog)
    client = Containerd(space, one_mirror.url, every=True)
    try:
        name = f"{origin.host}/{ref}"
        done = client.pull(name)
        assert done.ok, done.output
        client.verify(origins[HUB].catalog[ref], name)
    finally:
        client.service.stop()
        origin.stop()
    assert [e for each in origins.values() for e in each.recorder.exchanges] == []
