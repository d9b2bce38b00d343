"""What an upstream sends, by properties: it raises nothing that nobody expects, and leads nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError
from mirror.upstream import fields
from mirror.upstream.failures import SAYS_LIMIT, TransportError, from_answer
from mirror.upstream.realms import Verdict, host_of, judge
from mirror.upstream.redirects import Hop, follow, origin
from tests.oci.strategies import bounded, texts

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
envelopes = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda code, message: json.dumps({"errors": [{"code": code, "message": message}]}).encode(),
        values,
        values,
    ),
    values.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps({"errors": value}).encode()),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth),
)


@bounded
@given(status=st.integers(300, 999), body=envelopes, wait=texts, secret=st.booleans())
def test_a_failure_is_one_of_ours_whatever_its_body_says(
    status: int, body: bytes, wait: str, secret: bool
) -> None:
    """With a status that clients know, in bounded words, and without what was told in confidence."""
    failure = from_answer(
        status,
        {"Retry-After": wait},
        body,
        name="r.example",
        missing=ErrorCode.BLOB_UNKNOWN,
        what="this blob",
        with_credentials=True,
        is_secret=lambda _text: secret,
    )
    assert isinstance(failure, RegistryError)
    assert 400 <= failure.status <= 504
    assert len(failure.message) < SAYS_LIMIT + 200
    assert failure.message.isprintable()
    if secret:
        assert "upstream says" not in failure.message


@bounded
@given(
    headers=st.dictionaries(
        st.sampled_from(["Content-Length", "Content-Range", "Docker-Content-Digest"]), texts
    )
)
def test_header_fields_are_what_they_must_be_or_not_there(headers: Mapping[str, str]) -> None:
    length, span, digest = fields.length_in(headers), fields.range_in(headers), fields.digest_in(headers)
    assert length is None or 0 <= length < 10**19
    assert span is None or 0 <= span.start <= span.stop
    assert digest is None or str(digest) == headers["Docker-Content-Digest"]


hosts = st.sampled_from(
    ["r.example", "auth.r.example", "evil.test", "r.example.evil.test", "127.0.0.1", "[::1]"]
)
urls = st.one_of(
    texts,
    texts.map("https://".__add__),
    st.builds(
        "{}://{}{}{}/{}".format,
        st.sampled_from(["https", "http", "file", "HTTPS"]),
        st.sampled_from(["", "r.example@", "a:b@"]),
        hosts,
        st.sampled_from(["", ":443", ":8443", ":0", ":99999", ":x"]),
        texts,
    ),
    st.builds("//{}/{}".format, hosts, texts),
)
REGISTRY = URL("https://r.example/v2/")


@bounded
@given(location=st.one_of(st.none(), urls))
def test_a_redirect_leads_to_the_web_never_back_to_http_and_takes_no_login_along(
    location: str | None,
) -> None:
    hop = Hop(
        REGISTRY,
        {"Authorization": "Bearer secret", "X-Api-Key": "secret", "Accept": "a", "Range": "bytes=0-"},
    )
    try:
        found = follow(hop, location)
    except TransportError:
        return
    assert found.url.scheme == "https"
    assert found.url.host
    if origin(found.url) != origin(REGISTRY):
        assert "secret" not in str(found.headers)


@bounded
@given(realm=urls)
def test_credentials_go_to_the_registry_and_its_domain_only(realm: str) -> None:
    """Whatever a challenge calls a realm."""
    verdict = judge(REGISTRY, realm, ())
    if verdict is not Verdict.REFUSED:
        assert host_of(realm)
        url = URL(realm)
        assert url.scheme == "https"
        assert url.user is None
    if verdict is Verdict.TRUSTED:
        host = (URL(realm).host or "").rstrip(".").lower()
        assert host == "r.example" or host.endswith(".r.example")
