"""distribution's paths, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.drivers import paths
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout

HEX = "0123456789abcdef" * 4
DIGEST = Digest("sha256", HEX)
LONG = Digest("sha512", HEX * 2)
REPOSITORY = Repository("library/foo")
BASE = "docker/registry/v2"
OF_FOO = f"{BASE}/repositories/library/foo"


def test_paths_are_those_of_distribution() -> None:
    tag = Tag("V1.2_x")
    assert layout.blob_data(DIGEST) == f"{BASE}/blobs/sha256/01/{HEX}/data"
    assert layout.blob_data(LONG) == f"{BASE}/blobs/sha512/01/{HEX * 2}/data"
    assert layout.layer_link(REPOSITORY, DIGEST) == f"{OF_FOO}/_layers/sha256/{HEX}/link"
    assert layout.revision_link(REPOSITORY, DIGEST) == f"{OF_FOO}/_manifests/revisions/sha256/{HEX}/link"
    assert layout.tag_current_link(REPOSITORY, tag) == f"{OF_FOO}/_manifests/tags/V1.2_x/current/link"
    assert (
        layout.tag_index_link(REPOSITORY, tag, DIGEST)
        == f"{OF_FOO}/_manifests/tags/V1.2_x/index/sha256/{HEX}/link"
    )
    assert layout.link_bytes(DIGEST) == f"sha256:{HEX}".encode()


def test_the_longest_path_is_one_that_every_driver_takes() -> None:
    path = layout.tag_index_link(Repository.parse("a" * 255), Tag.parse("_" * 128), LONG)
    assert paths.split(path)


@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@settings(max_examples=200)
def test_a_link_is_a_digest_or_broken_whatever_its_bytes(data: bytes) -> None:
    try:
        digest = layout.parse_link(data)
    except layout.BrokenLink as error:
        assert str(error)  # noqa: PT017  either outcome is right
    else:
        assert layout.link_bytes(digest) == data


def test_a_link_stands_for_its_own_digest_or_for_one_of_another_algorithm() -> None:
    assert layout.parse_link(layout.link_bytes(DIGEST), DIGEST) == DIGEST
    assert layout.parse_link(layout.link_bytes(DIGEST), LONG) == DIGEST
    with pytest.raises(layout.BrokenLink, match="another"):
        layout.parse_link(layout.link_bytes(Digest.of(b"")), DIGEST)
