"""Files of users and Basic headers: what is read of them, and that nothing else comes out of any text."""

from __future__ import annotations

import base64

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.access import basic, users
from mirror.access.users import Users, UsersError

# A salt of its own would give each of several workers other names for the tests.
HASH = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu")


@pytest.mark.parametrize(
    ("body", "names", "unusable"),
    [
        (b"", [], ()),
        (b"\n\r\n # a comment\n#x\n", [], ()),
        (b"bob:" + HASH, [b"bob"], ()),
        (b"  bob:" + HASH + b" \r\neve:" + HASH + b"\n", [b"bob", b"eve"], ()),
        (b":" + HASH, [b""], ()),
        (b"bob:$apr1$x$y\neve:" + HASH, [b"eve"], (1,)),
        (b"bob:{SHA}x\nbob:" + HASH, [b"bob"], (1,)),
        (b"bob:" + HASH + b"\nbob:plain", [], (2,)),  # the last line of a name counts, whatever it is
        (b"bob:" + HASH + b":more", [], (1,)),
        (b"bob:" + HASH.replace(b"$04$", b"$18$"), [], (1,)),  # would take 16 s of a thread
        (b"bob:" + HASH.replace(b"$04$", b"$03$"), [], (1,)),
        (b"bob:" + HASH.replace(b"$2b$", b"$2y$"), [b"bob"], ()),
        (b"bob:" + HASH.replace(b"$2b$", b"$1b$"), [], (1,)),
        ("b\u00f6b:".encode() + HASH, ["b\u00f6b".encode()], ()),
    ],
)
def test_users_are_read_as_the_registry_reads_them(
    body: bytes, names: list[bytes], unusable: tuple[int, ...]
) -> None:
    found = users.parse(body)
    assert (list(found.hashes), tuple(number for number, _ in found.unusable)) == (names, unusable)
    assert len(found.costs) == len(names)


def test_who_is_passed_over_is_told_by_line_and_kind() -> None:
    md5, other = b"$apr1$x$y", HASH.replace(b"$04$", b"$18$")
    lines = [md5, b"{SHA}x", HASH, b"secret", md5, b"$6$x$y", other, b"$2y$05$short"]
    body = b"\n".join(b"user%d:%b" % (number, each) for number, each in enumerate(lines))
    told = users.parse(body + b"\n" + b"\n".join(b"u%d:%b" % (n, md5) for n in range(20))).passed_over
    assert told.startswith(
        "1, 5, 9, 10, 11, 12, 13, 14, 15, 16, … (MD5); 2 (SHA-1); 4 (plain text or crypt); "
    )
    assert told.endswith(
        "6 (SHA-512); 7 (bcrypt of a cost that is not from 4 to 17); 8 (no whole bcrypt hash)"
    )
    assert "secret" not in told


@pytest.mark.parametrize("body", [b"bob", b"# fine\n\nbob\n", b"x" * (users.FILE_LIMIT + 1)])
def test_a_file_that_is_none_of_users_lets_nobody_in(body: bytes) -> None:
    with pytest.raises(UsersError) as refused:
        users.parse(body)
    assert "bob" not in str(refused.value)


def test_a_hash_is_never_shown() -> None:
    assert HASH.decode() not in repr(users.parse(b"bob:" + HASH))


@given(st.binary(max_size=500))
def test_any_bytes_are_a_file_of_users_or_none(body: bytes) -> None:
    try:
        found = users.parse(body)
    except UsersError:
        return
    assert isinstance(found, Users)
    assert all(users.is_usable(hashed) for hashed in found.hashes.values())


@pytest.mark.parametrize(
    ("header", "login"),
    [
        ("Basic Ym9iOnNlY3JldA==", (b"bob", b"secret")),
        ("bAsIc Ym9iOnNlY3JldA==", (b"bob", b"secret")),
        ("Basic Og==", (b"", b"")),
        ("Basic YTpiOmM=", (b"a", b"b:c")),
        ("Basic /zov", (b"\xff", b"/")),
        ("Basic Ym9i", None),
        ("Basic Ym9iOnNlY3JldA", None),
        ("Basic Ym9iOnNl Y3JldA==", None),
        ("Basic -_o6", None),
        ("Basic \u0661", None),
        ("Basic", None),
        ("Basic ", None),
        ("Bearer x", None),
        ("", None),
    ],
)
def test_a_basic_header_is_read_as_go_reads_it(header: str, login: tuple[bytes, bytes] | None) -> None:
    assert basic.parse(header) == login


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_basic_header_comes_back(user: bytes, password: bytes) -> None:
    user = user.replace(b":", b"")
    header = "Basic " + base64.b64encode(user + b":" + password).decode()
    assert basic.parse(header) == (user, password)


@given(st.text(max_size=200))
def test_any_text_is_a_basic_header_or_none(text: str) -> None:
    for header in (text, f"Basic {text}"):
        found = basic.parse(header)
        assert found is None or (b":" not in found[0] and len(found) == 2)
