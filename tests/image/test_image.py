"""The container image, built as its users build it and run as they run registry:2's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Dockerd
from tests.support.images import Catalog
from tests.support.procs import HarnessError, Workspace, accepts, free_port, wait_until
from tests.support.pulls import pull
from tests.support.registries import Registry

# The first test waits for debootstrap, pip and a build.
pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

UID = 65532
REF = "library/multi:1"
SOON = 8.0  # seconds; docker kills after 10 what has not ended by then
START_TIMEOUT = 60.0  # seconds; on a busy machine


class Container:
    """One running container of the image, on the host's network."""

    def __init__(self, docker: Dockerd, image: str, options: list[str], args: list[str]) -> None:
        self.docker = docker
        run = docker.docker("run", "--detach", "--network", "host", *options, image, *args)
        self.id = docker.ask(run).split()[-1]

    def state(self) -> dict[str, Any]:
        """docker's State of it."""
        found: list[dict[str, Any]] = json.loads(self.docker.ask(self.docker.docker("inspect", self.id)))
        state: dict[str, Any] = found[0]["State"]
        return state

    def log(self) -> str:
        """What it printed."""
        return self.docker.ask(self.docker.docker("logs", self.id))

    def wait_for(self, port: int) -> None:
        """Until it accepts connections there. Raises HarnessError with its log when it does not."""

        def ready() -> bool:
            if not self.state()["Running"]:
                raise HarnessError(self.log())
            return accepts(port)

        wait_until(ready, "the container accepts connections", START_TIMEOUT)

    def run(self, *argv: str) -> str:
        """The output of a command inside."""
        return self.docker.ask(self.docker.docker("exec", self.id, *argv)).strip()

    def stop(self) -> float:
        """docker stop; the seconds that it took."""
        return self.docker.run(self.docker.docker("stop", self.id)).seconds


@pytest.fixture
def start(docker: Dockerd, image: str) -> Iterator[Callable[..., Container]]:
    """Start containers that are removed with the test, with their anonymous volumes."""
    started: list[Container] = []

    def run(options: list[str], *args: str) -> Container:
        started.append(Container(docker, image, options, list(args)))
        return started[-1]

    yield run
    for container in started:
        docker.ask(docker.docker("rm", "--force", "--volumes", container.id))


def once(docker: Dockerd, image: str, *args: str) -> str:
    """The output of a container that ends by itself."""
    return docker.ask(docker.docker("run", "--rm", "--network", "none", image, *args))


def write_config(folder: Path, registry: Registry) -> tuple[Path, int]:
    """A registry:2 configuration file for a mirror of this registry, and its port."""
    port = free_port()
    path = folder / "config.yml"
    path.write_text(
        f"""version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: 127.0.0.1:{port}
proxy:
  remoteurl: {registry.url}
"""
    )
    path.chmod(0o644)
    return path, port


def test_it_runs_by_environment_alone_with_a_named_volume(
    docker: Dockerd, start: Callable[..., Container], upstream: Registry, catalog: Catalog
) -> None:
    """Pulls, healthy, not root; ends at once on SIGTERM; the next one serves the volume without upstream."""
    port = free_port()
    options = ["--volume", "kept:/var/lib/registry", "--env", f"REGISTRY_HTTP_ADDR=127.0.0.1:{port}"]
    options += ["--health-interval", "1s"]  # the image's own is 30 s
    first = start([*options, "--env", f"REGISTRY_PROXY_REMOTEURL={upstream.url}"])
    first.wait_for(port)
    pull(f"http://127.0.0.1:{port}", catalog, catalog[REF])
    assert first.run("id", "-u") == str(UID)
    assert first.run("stat", "-c", "%u", "/var/lib/registry/docker") == str(UID)
    wait_until(lambda: first.state()["Health"]["Status"] == "healthy", "the container is healthy")
    assert first.stop() < SOON
    assert first.state()["ExitCode"] in (0, 143), first.log()

    second = start([*options, "--env", f"REGISTRY_PROXY_REMOTEURL=http://127.0.0.1:{free_port()}"])
    second.wait_for(port)
    pull(f"http://127.0.0.1:{port}", catalog, catalog[REF])


@pytest.mark.parametrize("where", ["/etc/docker/registry/config.yml", "/etc/distribution/config.yml"])
def test_it_reads_a_file_mounted_where_registry_2_or_3_has_it(
    where: str,
    space: Workspace,
    start: Callable[..., Container],
    upstream: Registry,
    catalog: Catalog,
) -> None:
    """And keeps what it pulls in a bind mount that its user may write; its health is asked there."""
    folder = space.folder("mounted")
    path, port = write_config(folder, upstream)
    data = folder / "data"
    data.mkdir()
    os.chown(data, UID, UID)
    mounts = ["--volume", f"{path}:{where}:ro", "--volume", f"{data}:/var/lib/registry"]
    container = start([*mounts, "--health-interval", "1s"])
    container.wait_for(port)
    pull(f"http://127.0.0.1:{port}", catalog, catalog[REF])
    wait_until(lambda: container.state()["Health"]["Status"] == "healthy", "the container is healthy")
    assert list(data.glob("docker/registry/v2/blobs/sha256/*/*/data"))


@pytest.mark.parametrize("args", [["serve", "/my.yml"], ["/my.yml"], ["registry", "serve", "/my.yml"]])
def test_the_entrypoint_serves_a_file_that_is_named(
    args: list[str], space: Workspace, start: Callable[..., Container], upstream: Registry
) -> None:
    """In registry:2's forms, and by the name of registry:2's program."""
    path, port = write_config(space.folder("named"), upstream)
    start(["--volume", f"{path}:/my.yml:ro"], *args).wait_for(port)


def test_the_entrypoint_passes_options_and_other_programs_on(docker: Dockerd, image: str) -> None:
    """`-*` is for the mirror, anything unknown a program."""
    assert once(docker, image, "--version").startswith("mirror")
    assert "serve" in once(docker, image, "help")
    assert once(docker, image, "sh", "-c", "echo $0-$1", "a", "b") == "a-b\n"


def test_by_default_it_mirrors_docker_hub_into_the_volume_on_port_5000(docker: Dockerd, image: str) -> None:
    """With the file that the image has."""
    text = once(docker, image, "mirror", "config", "/etc/distribution/config.yml")
    for line in ("remoteurl: https://registry-1.docker.io", "rootdirectory: /var/lib/registry", ":5000"):
        assert line in text
    [facts] = json.loads(docker.ask(docker.docker("inspect", image)))
    config = facts["Config"]
    assert list(config["ExposedPorts"]) == ["5000/tcp"]
    assert list(config["Volumes"]) == ["/var/lib/registry"]
    assert config["User"] == f"{UID}:{UID}"


def test_the_image_has_no_build_tools_and_no_sources(docker: Dockerd, image: str) -> None:
    """What pip and setuptools leave stays in the first stage."""
    listing = once(docker, image, "sh", "-c", "ls / /opt/mirror/lib/python3*/site-packages")
    names = {line.split("-")[0] for line in listing.splitlines()}
    assert {"etc", "mirror", "aiohttp"} <= names
    assert names.isdisjoint({"src", "image", "pip", "setuptools", "wheel"})


def test_all_that_a_start_imports_is_there_as_bytecode(docker: Dockerd, image: str) -> None:
    """Of the standard library too, which the base image has as sources only."""
    imports = "import mirror.app, mirror.cli, mirror.commandsrun, mirror.configfile, tldextract"
    told = once(docker, image, "sh", "-c", f"python3 -v -c '{imports}' 2>&1").splitlines()
    code = [line for line in told if line.startswith("# code object from ")]
    compiled = [line for line in code if line.endswith(".py")]
    assert len(code) > 500
    assert not compiled
