"""What a path says, against the paths that the layout makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from mirror.store.places import (
    CurrentLink,
    IndexLink,
    LayerLink,
    RevisionLink,
    blob_of,
    place_of,
    repository_of,
)

COMPONENTS = st.sampled_from(
    ["a", "quay.io", "library", "a--b", "x__y", "0", "localhost_5000", "data", "link"]
)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
TAGS = st.text("aZ0_.-", max_size=12).map(lambda rest: f"_{rest}") | st.sampled_from(
    ["current", "index", "tags"]
)
DIGESTS = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(sorted(HEX_LENGTH)))


@settings(deadline=None)
@given(REPOSITORIES, TAGS, DIGESTS)
def test_every_path_of_the_layout_is_read_back(name: str, tag_name: str, digest: Digest) -> None:
    repository, tag = Repository.parse(name), Tag.parse(tag_name)
    assert blob_of(layout.blob_data(digest)) == digest
    for path, place in {
        layout.layer_link(repository, digest): LayerLink(repository, digest),
        layout.revision_link(repository, digest): RevisionLink(repository, digest),
        layout.tag_current_link(repository, tag): CurrentLink(repository, tag),
        layout.tag_index_link(repository, tag, digest): IndexLink(repository, tag, digest),
    }.items():
        assert place_of(path) == place
        assert repository_of(path) == repository
        assert blob_of(path) is None
    for folder in (layout.layers(repository), layout.manifests(repository), layout.uploads(repository)):
        assert repository_of(folder) == repository
        assert place_of(folder) is None


HEX = "ab" * 32
BLOB = f"{layout.BLOBS}/sha256/ab/{HEX}"
REPOSITORY = f"{layout.REPOSITORIES}/org/app"


@pytest.mark.parametrize(
    "path",
    [
        BLOB,
        f"{BLOB}/data/more",
        f"{BLOB}/startedat",
        f"{layout.BLOBS}/sha256/cd/{HEX}/data",
        f"{layout.BLOBS}/sha256/{HEX}/{HEX}/data",
        f"{layout.BLOBS}/sha256/ab/{HEX[:-1]}/data",
        f"{layout.BLOBS}/sha256/AB/{HEX.upper()}/data",
        f"{layout.BLOBS}/md5/ab/{HEX[:32]}/data",
        f"{layout.BLOBS}",
        f"{REPOSITORY}/_layers/sha256/{HEX}",
        f"{REPOSITORY}/_layers/sha256/{HEX}/data",
        f"{REPOSITORY}/_layers/sha256/{HEX[:-1]}/link",
        f"{REPOSITORY}/_layers/sha256/deep/{HEX}/link",
        f"{REPOSITORY}/_manifests/{HEX}/link",
        f"{REPOSITORY}/_manifests/revisions/sha256/{HEX}/signatures/sha256/{HEX}/link",
        f"{REPOSITORY}/_manifests/tags/-tag/current/link",
        f"{REPOSITORY}/_manifests/tags/tag/link",
        f"{REPOSITORY}/_manifests/tags/tag/index/sha256/link",
        f"{REPOSITORY}/_uploads/1/data",
        f"{layout.REPOSITORIES}/Org/_layers/sha256/{HEX}/link",
        f"{layout.REPOSITORIES}/_layers/sha256/{HEX}/link",
        f"{layout.REPOSITORIES}/org",
        f"{layout.REPOSITORIES}/lost_found/file",
        "scheduler-state.json",
        "",
    ],
)
def test_a_path_that_the_layout_does_not_make_is_nothing(path: str) -> None:
    assert place_of(path) is None
    assert blob_of(path) is None
