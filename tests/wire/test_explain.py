"""`mirror explain` of images that not everybody is given."""

from __future__ import annotations

from mirror import explain
from mirror.server.control import SOCKET
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace

NOWHERE = "http://127.0.0.1:9"  # nothing is fetched
ASKS = "asks the upstream where the tag points (one HEAD), then fetches what is new"


def test_what_is_given_to_nobody_is_told_and_so_is_whose_login_counts(space: Workspace) -> None:
    upstreams = {
        "closed.test": {"remoteurl": NOWHERE, "allow": ["org/*"]},
        "own.test": {"remoteurl": NOWHERE, "rights": "caller"},
    }
    proxy = {"deny": ["library/secret*"], "upstreams": upstreams}
    mirror = MirrorProcess(space, NOWHERE, name="explain", config={"proxy": proxy})
    images = ("library/secret:1", "library/a", "closed.test/b", "closed.test/org/b", "own.test/c")
    known = {image: explain.ask(mirror.storage / SOCKET, image) for image in images}
    assert known["library/a"]["routed_by"] == "default upstream"
    assert known["own.test/c"]["routed_by"] == "the image's host own.test"
    told = {image: facts["next_pull"] for image, facts in known.items()}
    may = "asks the registry whether the client's own login may have it (one HEAD a minute); if so, it "
    assert told == {
        "library/secret:1": "is refused (403): proxy.deny forbids it",
        "library/a": ASKS,
        "closed.test/b": "is refused (403): proxy.upstreams.closed.test.allow forbids it",
        "closed.test/org/b": ASKS,
        "own.test/c": may + ASKS,
    }
