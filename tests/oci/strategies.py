"""What the properties of the protocol room are tried on."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.oci.names import MAX_NAME_LENGTH

# No deadline: a busy machine is not a slow parser, and speed has tests of its own.
bounded = settings(max_examples=200, deadline=None)

digests = st.sampled_from(sorted(HEX_LENGTH)).flatmap(
    lambda name: st.text("0123456789abcdef", min_size=HEX_LENGTH[name], max_size=HEX_LENGTH[name]).map(
        lambda value: Digest(name, value)
    )
)

# The words of the routes are legal components, and the ones that a parser trips over.
components = st.one_of(
    st.sampled_from(
        ["blobs", "manifests", "tags", "list", "uploads", "referrers", "v2", "a__b", "a--b", "1.2"]
    ),
    st.from_regex(r"[a-z0-9]{1,6}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True),
)
names = (
    st.lists(components, min_size=1, max_size=8)
    .map("/".join)
    .filter(lambda text: len(text) <= MAX_NAME_LENGTH)
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)

# Any characters, also half ones (surrogates), which a decoder of URLs or headers may leave.
texts = st.text(st.characters(), max_size=80)
