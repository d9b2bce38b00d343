"""Digests, names, tags, references and the error envelope."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest, DigestError, looks_like_digest
from mirror.oci.errors import ErrorCode, envelope
from mirror.oci.names import InvalidNameError, Repository, Tag
from tests.oci.strategies import bounded, digests, names, tags, texts


@bounded
@given(digests)
def test_a_digest_survives_being_written(digest: Digest) -> None:
    """str() and parse() are each other's inverse, and a reference keeps it."""
    assert Digest.parse(str(digest)) == digest
    assert looks_like_digest(str(digest))


@bounded
@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_is_of_its_bytes_only(data: bytes, algorithm: str) -> None:
    """hashlib's value, in one go and in parts; one byte more does not match."""
    digest = Digest.of(data, algorithm)
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert digest.matches(data)
    assert not digest.matches(data + b"\0")
    hasher = digest.hasher()
    hasher.update(data[:7])
    hasher.update(data[7:])
    assert hasher.hexdigest() == digest.hex


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "format"),
        ("sha256", "format"),
        ("sha256:", "format"),
        (":" + "a" * 64, "format"),
        ("sha256:" + "a" * 64 + "\n", "format"),
        ("SHA256:" + "a" * 64, "format"),
        ("sha256:" + "g" * 64, "format"),
        ("sha256:" + "A" * 64, "format"),
        ("sha256:" + "a" * 63, "length"),
        ("sha512:" + "a" * 64, "length"),
        ("sha384:" + "a" * 96, "algorithm"),
    ],
)
def test_a_digest_that_cannot_be_checked_is_refused(text: str, reason: str) -> None:
    """The reason is distribution's."""
    with pytest.raises(DigestError, match=reason):
        Digest.parse(text)


@bounded
@given(names, tags)
def test_names_and_tags_of_the_grammar_are_taken(name: str, tag: str) -> None:
    """As they stand."""
    assert str(Repository.parse(name)) == name
    assert Tag.parse(tag) == Tag(tag)
    assert not looks_like_digest(tag)


@pytest.mark.parametrize(
    "text",
    ["", "A", "a/", "/a", "a//b", "a..b", "a___b", "-a", "a-", "_a", "a.", "a:b", "a\n", "\u00e9", "a" * 256],
)  # fmt: skip
def test_a_name_outside_the_grammar_is_refused(text: str) -> None:
    """distribution-spec, "Pulling manifests"."""
    with pytest.raises(InvalidNameError):
        Repository.parse(text)


@pytest.mark.parametrize("text", ["", ".a", "-a", "a" * 129, "a/b", "a b", "a\n", "\u00e9", "a:b c"])
def test_a_tag_outside_the_grammar_is_refused(text: str) -> None:
    """No leading dot or dash, at most 128 characters."""
    with pytest.raises(InvalidNameError):
        Tag.parse(text)


@bounded
@given(texts)
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """Only the two errors of the room, and what is taken is unchanged."""
    try:
        found = Digest.parse(text) if looks_like_digest(text) else Tag.parse(text)
    except (InvalidNameError, DigestError):
        return
    assert str(found) == text


def test_the_envelope_is_that_of_distribution() -> None:
    """The exact bytes, with a detail only when there is one."""
    assert envelope(ErrorCode.UNSUPPORTED) == (
        b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}\n'
    )
    assert json.loads(envelope(ErrorCode.BLOB_UNKNOWN, "gone", {"n": 0})) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "gone", "detail": {"n": 0}}]
    }
    assert envelope(ErrorCode.NAME_UNKNOWN, detail={}).endswith(b'"detail":{}}]}\n')
