"""Pushing to the mirror fails at once, with a text that says why."""

from __future__ import annotations

import pytest

from tests.support.clients import Podman, Skopeo, hub_ref
from tests.support.daemons import Dockerd
from tests.support.images import Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import wait_until
from tests.support.recorder import Recorder

pytestmark = pytest.mark.clients

# docker retries for 50 s where the answer has the standard's text.
SOON = 5.0  # seconds; measured: less than one


@pytest.mark.parametrize("name", ["skopeo", "podman", "dockerd"])
def test_a_push_fails_at_once_and_says_that_this_is_a_read_only_mirror(
    name: str, request: pytest.FixtureRequest, mirror: MirrorProcess, recorder: Recorder, catalog: Catalog
) -> None:
    """The client prints our words."""
    mirror.fresh(recorder.url)
    client: Skopeo | Podman | Dockerd = request.getfixturevalue(name)
    image = catalog["library/small:1"]
    pulled = client.pull(hub_ref(image))
    assert pulled.ok, pulled.output
    recorder.clear()
    pushed = client.push(hub_ref(image), f"{mirror.host}/library/pushed:1")
    assert not pushed.ok
    assert pushed.seconds < SOON
    assert "read-only" in pushed.output
    assert recorder.select("HEAD", "/blobs/"), "the push did not look for its blobs"
    # An upstream that answers HEAD with 404 is asked again by GET, for one byte: some refuse only HEAD.
    # dockerd gives up at the first refusal, while its other questions are still on their way.
    wait_until(lambda: all(exchange.end for exchange in recorder.exchanges), "the last answer")
    got = {exchange.status for exchange in recorder.select("GET", "/blobs/")}
    assert got <= {404}, "a push's look for its blobs started downloads"
