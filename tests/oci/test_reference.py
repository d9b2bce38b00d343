"""Image references as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.oci.reference import Image, ImageError

D = Digest.of(b"x")


@pytest.mark.parametrize(
    ("text", "host", "name", "reference"),
    [
        ("alpine", None, "alpine", "latest"),
        ("alpine:3.20", None, "alpine", "3.20"),
        ("library/alpine", None, "library/alpine", "latest"),
        ("org/app/sub:v1", None, "org/app/sub", "v1"),
        (f"alpine@{D}", None, "alpine", str(D)),
        (f"alpine:3.20@{D}", None, "alpine", str(D)),
        (f"docker.io/library/alpine@{D}", "docker.io", "library/alpine", str(D)),
        ("docker.io/alpine", "docker.io", "alpine", "latest"),
        ("quay.io/org/app:1", "quay.io", "org/app", "1"),
        ("QUAY.io/org/app:Tag", "quay.io", "org/app", "Tag"),
        ("localhost/x", "localhost", "x", "latest"),
        ("localhost:5000/x", "localhost:5000", "x", "latest"),
        (f"localhost:5000/x:2@{D}", "localhost:5000", "x", str(D)),
        ("registry:5000/x", "registry:5000", "x", "latest"),
        ("10.0.0.1:5000/a/b:c", "10.0.0.1:5000", "a/b", "c"),
        ("[fd00::1]:5000/a", "[fd00::1]:5000", "a", "latest"),
        ("registry/x", None, "registry/x", "latest"),  # without a dot or a port it is no host
        ("localhost", None, "localhost", "latest"),
        ("localhost:5000", None, "localhost", "5000"),
        ("docker://alpine", None, "alpine", "latest"),
        (f"docker://quay.io/org/app:1@{D}", "quay.io", "org/app", str(D)),
        ("oci://registry:5000/charts/x:1", "registry:5000", "charts/x", "1"),
        ("https://quay.io/org/app", "quay.io", "org/app", "latest"),
        ("http://localhost:5000/x:2", "localhost:5000", "x", "2"),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(
    text: str, host: str | None, name: str, reference: str
) -> None:
    image = Image.parse(text)
    assert (image.host, image.repository, str(image.reference)) == (host, Repository(name), reference)
    assert isinstance(image.reference, Digest if "@" in text else Tag)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid repository name ''"),
        ("Alpine", "lower case"),
        ("quay.io/Org/app", "lower case"),
        ("alpine:", "invalid tag ''"),
        ("alpine:-x", "invalid tag '-x'"),
        ("alpine:a:b", "invalid tag 'a:b'"),
        ("alpine@", "invalid checksum digest format"),
        ("alpine@sha256:12", "invalid checksum digest length"),
        ("alpine@md5:12", "unsupported digest algorithm"),
        ("alpine:b@d@e", "invalid checksum digest format"),
        ("ftp://quay.io/x", "'ftp:' is no host"),
        ("docker://", "invalid repository name ''"),
        ("docker://https://quay.io/x", "'https:' is no host"),
        ("alpine://x", "'alpine:' is no host"),
        ("a..b/x", "'a..b' is no host"),
        ("-a.b/x", "'-a.b' is no host"),
        ("a.b:port/x", "'a.b:port' is no host"),
        ("/x", "invalid repository name '/x'"),
        ("quay.io/", "invalid repository name ''"),
        ("quay.io//x", "invalid repository name '/x'"),
        ("a b", "invalid repository name 'a b'"),
        ("x\n", r"invalid repository name 'x\n'"),
        ("a" * 300, "invalid repository name"),
        (f"{'a.' * 200}b/x", "is no host"),
        ("a" * 2000, "longer than 1024"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        Image.parse(text)
    assert reason in str(raised.value)
    assert str(raised.value).isprintable()


@given(st.text(alphabet="aZ0.:/@-_[]s h256\n", max_size=40))
def test_nothing_else_is_raised(text: str) -> None:
    """And what is taken is bounded and clean."""
    try:
        image = Image.parse(text)
    except ImageError:
        return
    assert image.repository == Repository.parse(image.repository.name)
    assert image.host is None or image.host == image.host.lower()
