"""The mirror beside docker-registry 2.8.2, both with the same `auth`: each endpoint, all credentials.

Both are warm mirrors of one upstream. Status, challenge and body must be equal; what differs on purpose where
somebody is let in stands in test_side_by_side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.clients.test_side_by_side import METHODS, SMALL, UNKNOWN, Pair, Seen
from tests.support.images import Catalog
from tests.support.jwts import ISSUER, SERVICE, Signer, claims, pem, unsigned
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.registries import Registry, basic_auth, htpasswd

pytestmark = pytest.mark.clients

LOGIN = ("bob", "a secret: word")
NAME = "library/small"
PATHS = (
    *("/", "/v2", "/v2/", "/v1/search", "/v2/_catalog", "/v2/_catalog?n=x", "/v2/UPPER/tags/list"),
    *(f"{SMALL}/{rest}" for rest in ("tags/list", "manifests/1", "manifests/{D}", "manifests/-bad")),
    *(f"{SMALL}/{rest}" for rest in ("manifests/absent", "blobs/{L}", "blobs/sha256:12", f"blobs/{UNKNOWN}")),
    *(f"{SMALL}/blobs/uploads/{rest}" for rest in ("", "a-b", "?from=library/oci", "?mount={L}&from=a/b")),
)


@dataclass(frozen=True, slots=True)
class Mode:
    """`auth` for both, and credentials: those that are right, and others that are not, by what they are."""

    auth: dict[str, Any]
    right: str
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side(Pair):
    """Both, with a mode."""

    mode: Mode

    def compare(self, method: str, path: str, authorization: str) -> tuple[Seen, Seen]:
        """(theirs, ours), as far as they must be equal."""
        headers = {"Authorization": authorization} if authorization else {}
        theirs, ours = self.both(method, path, headers)
        return told(theirs), told(ours)


def told(seen: Seen) -> Seen:
    """Go's map has no order: neither have a scope's repositories, and the actions of one."""
    headers = dict(seen.headers)
    if line := headers.get("www-authenticate"):
        headers["www-authenticate"] = re.sub(r'scope="([^"]*)"', _in_order, line)
    return Seen(seen.status, headers, seen.body)


def _in_order(found: re.Match[str]) -> str:
    things = (each.rpartition(":") for each in found[1].split(" "))
    return " ".join(sorted(f"{name}:{sorted(actions.split(','))}" for name, _, actions in things))


def basic(space: Workspace) -> Mode:
    others = {
        "none": "",
        "wrong password": basic_auth((LOGIN[0], "other")),
        "wrong user": basic_auth(("eve", LOGIN[1])),
        "empty": "Basic Og==",
        "no base64": "Basic x",
        "no colon": "Basic bm9jb2xvbg==",
        "another scheme": "Bearer a.b.c",
        "no scheme": "x",
    }
    return Mode(htpasswd(space.folder("auth-side"), LOGIN), basic_auth(LOGIN), others)


def silly(_space: Workspace) -> Mode:
    return Mode({"silly": {"realm": 'a "realm"', "service": "service"}}, "x", {"none": ""})


def token(space: Workspace) -> Mode:
    signer, stranger = Signer(), Signer()
    bundle = space.folder("auth-side-token") / "bundle.pem"
    bundle.write_bytes(pem(signer.root))
    section = {"realm": "http://t.example/token", "rootcertbundle": str(bundle)}
    catalog = {"type": "registry", "name": "catalog", "actions": ["*"]}
    everything = {"type": "repository", "name": NAME, "actions": ["*"]}
    others = {"type": "repository", "name": "library/oci", "actions": ["pull"]}
    mounted = {"type": "repository", "name": "a/b", "actions": ["pull"]}
    good = signer.token(access=[catalog, everything, others, mounted])
    wrong = {
        "none": "",
        "another scheme": basic_auth(LOGIN),
        "no token": "Bearer x",
        "two words": "Bearer  x",
        "another repository": f"Bearer {signer.token('library/other')}",
        "push only": f"Bearer {signer.token(access=[{**everything, 'actions': ['push']}])}",
        "no access": f"Bearer {signer.token()}",
        "expired": f"Bearer {signer.token(NAME, exp=1)}",
        "not yet": f"Bearer {signer.token(NAME, nbf=2**40)}",
        "another issuer": f"Bearer {signer.token(NAME, iss='other')}",
        "another service": f"Bearer {signer.token(NAME, aud='other')}",
        "another key": f"Bearer {stranger.token(NAME)}",
        "not signed": f"Bearer {unsigned({'alg': 'none', 'typ': 'JWT'}, claims(NAME))}",
        "cut": f"Bearer {good[:-4]}",
    }
    return Mode({"token": {**section, "service": SERVICE, "issuer": ISSUER}}, f"Bearer {good}", wrong)


@pytest.fixture(scope="module", params=[basic, silly, token], ids=lambda made: made.__name__)
def side(
    request: pytest.FixtureRequest, space: Workspace, upstream: Registry, catalog: Catalog
) -> Iterator[Side]:
    mode: Mode = request.param(space)
    name = request.param.__name__
    theirs = Registry(space, f"auth-side-{name}", proxy_of=upstream.url, auth=mode.auth)
    ours = MirrorProcess(space, upstream.url, name=f"auth-beside-{name}", config={"auth": mode.auth})
    parts = catalog["library/small:1"].platforms["linux/amd64"]
    digests = {"{D}": catalog["library/small:1"].digest, "{C}": parts.config, "{L}": parts.layers[1]}
    made = Side(theirs.port, ours.port, digests, mode)
    for path in ("manifests/1", "manifests/{D}", "blobs/{C}", "blobs/{L}"):
        seen = made.compare("GET", f"{SMALL}/{path}", mode.right)
        assert [each.status for each in seen] == [200, 200]
    for registry in (theirs, ours):
        wait_until(registry.blob_file(parts.layers[1]).exists, f"{registry.folder.name} keeps the layer")
    yield made
    ours.stop()
    theirs.stop()


def test_who_is_not_let_in_is_answered_alike(side: Side) -> None:
    """Every endpoint, by every method, without credentials and with each kind of wrong ones."""
    asked = 0
    for path in PATHS:
        for method in METHODS:
            for kind, authorization in side.mode.others.items():
                if kind == "none" or method in ("GET", "POST"):
                    theirs, ours = side.compare(method, path, authorization)
                    assert ours == theirs, f"{method} {path} with {kind}"
                    asked += 1
    assert asked > 100


def test_who_is_let_in_gets_what_he_gets_there(side: Side) -> None:
    for method, path in (
        *((method, "/v2/") for method in METHODS),
        *((method, "/v2/_catalog") for method in METHODS),
        *((method, f"{SMALL}/manifests/1") for method in ("GET", "HEAD", "POST", "PATCH", "OPTIONS")),
        *((method, f"{SMALL}/blobs/{{L}}") for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS")),
        ("GET", f"{SMALL}/tags/list"),
        ("GET", f"{SMALL}/blobs/uploads/a-b"),
    ):
        theirs, ours = side.compare(method, path, side.mode.right)
        assert ours == theirs, f"{method} {path}"
        assert ours.status != 401


def test_an_answer_that_is_repeated_is_for_the_same_credentials_alone(side: Side) -> None:
    """The fast lane is warm then; who sends others, or none, is refused as before."""
    for _ in range(6):
        assert side.compare("GET", f"{SMALL}/manifests/{{D}}", side.mode.right)[1].status == 200
    for kind, authorization in side.mode.others.items():
        seen = side.compare("GET", f"{SMALL}/manifests/{{D}}", authorization)
        assert [each.status for each in seen] == [401, 401], kind
