"""WWW-Authenticate: what registries send, what the RFC allows, and what neither means."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.challenge import MAX_LENGTH, Challenge, parse
from tests.oci.strategies import bounded, texts
from tests.support.effort import effort

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
HUB_PARAMETERS = {
    "realm": "https://auth.docker.io/token",
    "service": "registry.docker.io",
    "scope": "repository:a/b:pull,push",
}


def bearer(**parameters: str) -> Challenge:
    """A Bearer challenge."""
    return Challenge("bearer", parameters, None)


def basic(**parameters: str) -> Challenge:
    """A Basic challenge."""
    return Challenge("basic", parameters, None)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([""], []),
        ([HUB], [bearer(**HUB_PARAMETERS)]),
        (['Basic realm="x"'], [basic(realm="x")]),
        (["BASIC Realm=x"], [basic(realm="x")]),
        (["Basic"], [basic()]),
        (["Basic  "], [basic()]),
        ([HUB, 'Basic realm="x"'], [bearer(**HUB_PARAMETERS), basic(realm="x")]),
        ([f'{HUB}, Basic realm="x"'], [bearer(**HUB_PARAMETERS), basic(realm="x")]),
        ([f'Basic realm="x", charset=a,{HUB}'], [basic(realm="x", charset="a"), bearer(**HUB_PARAMETERS)]),
        (["Basic, Bearer realm=x"], [basic(), bearer(realm="x")]),
        (["Negotiate, Basic realm=x"], [Challenge("negotiate", {}, None), basic(realm="x")]),
        (["Negotiate oRQwEqADC/+-._~==, Basic"], [Challenge("negotiate", {}, "oRQwEqADC/+-._~=="), basic()]),
        (["Negotiate abc"], [Challenge("negotiate", {}, "abc")]),
        (["Negotiate abc="], [Challenge("negotiate", {}, "abc=")]),
        ([' , ,Basic realm="x" ,, ,\tBearer a = b ,'], [basic(realm="x"), bearer(a="b")]),
        ([r'Basic realm="a \"quoted\" \\ \, \z"'], [basic(realm='a "quoted" \\ , z')]),
        (['Basic realm=""'], [basic(realm="")]),
        (['Bearer realm="a b, Basic realm=c"'], [bearer(realm="a b, Basic realm=c")]),
        (['Bearer realm="a" service="b"'], [bearer(realm="a", service="b")]),  # commas forgotten
        (["Bearer realm=a,realm=b,REALM=c"], [bearer(realm="a")]),
        (['Digest qop="auth, int", a=MD5'], [Challenge("digest", {"qop": "auth, int", "a": "MD5"}, None)]),
        (
            ['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"'],  # RFC 9110
            [
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, None),
                basic(realm="simple"),
            ],
        ),
    ],
)  # fmt: skip
def test_challenges_are_told_apart(lines: list[str], expected: list[Challenge]) -> None:
    """Several in one line, several lines, commas in quotes, escapes, tokens."""
    assert parse(lines) == tuple(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('Basic realm="x', [basic()]),
        ('Bearer realm="x",service="y', [bearer(realm="x")]),
        ('Bearer realm="x",service=', [bearer(realm="x")]),
        ('Bearer realm="x",service', [bearer(realm="x"), Challenge("service", {}, None)]),
        ('Bearer realm="x";service="y"', [bearer()]),
        ('Bearer realm="x", service = "y', [bearer(realm="x")]),
        ('Bearer realm="x", =y', [bearer(realm="x")]),
        ('Bearer realm="x"y, Basic', [bearer()]),
        ('realm="x"', []),
        ('="x"', []),
        ('"Basic"', []),
        ("Basic a b c", [basic()]),
        ("\x00", []),
        ("B\u00e4sic realm=x", []),
        ("Basic realm=\u00e4", [basic()]),
    ],
)
def test_bad_input_ends_its_line_only(line: str, expected: list[Challenge]) -> None:
    """What was understood before it counts, and so do the other lines."""
    assert parse([line, "Basic realm=z"]) == (*expected, basic(realm="z"))


def test_more_than_the_limit_is_ignored() -> None:
    """A line is taken whole or not at all, so that no realm is cut in the middle."""
    long = 'Basic realm="' + "x" * (MAX_LENGTH - 14) + '"'
    assert len(long) == MAX_LENGTH
    assert len(parse([long])) == 1
    assert parse([long, "B"]) == parse([long])
    assert parse([long + " ", HUB]) == ()


words = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
parameters = st.dictionaries(
    words.map(str.lower), st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4
)


@bounded
@given(
    st.lists(st.tuples(words, parameters), max_size=5), st.sampled_from([",", ", ", " ,\t, "]), st.booleans()
)
def test_built_challenges_come_back(
    wanted: list[tuple[str, dict[str, str]]], comma: str, one_line: bool
) -> None:
    """Any scheme, any names, any quoted values, in one line or in several."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    built = [
        f"{scheme} " + comma.join(f"{name}={quoted(text)}" for name, text in fields.items())
        for scheme, fields in wanted
    ]
    lines = [comma.join(built)] if one_line else built
    assert parse(lines) == tuple(Challenge(scheme.lower(), fields, None) for scheme, fields in wanted)


@bounded
@given(st.lists(texts | st.text(' ,="\\aB\t', max_size=40), max_size=4))
def test_nothing_is_ever_raised(lines: list[str]) -> None:
    """Any text gives challenges with a scheme, and never both parameters and a token68."""
    for challenge in parse(lines):
        assert challenge.scheme
        assert not (challenge.parameters and challenge.token68)


@pytest.mark.parametrize(
    "part", [",", " ", "a", "a,", "a ", "a=", 'a="', '"', "\\", 'a "\\', "a=b,", 'a="",', "=", " a", "a b,"]
)
def test_a_hostile_line_costs_no_time(part: str) -> None:
    """The worst lines of the greatest length; anything quadratic takes many times as long."""
    for line in (
        part * (MAX_LENGTH // len(part)),
        "Basic " + part * ((MAX_LENGTH - 8) // len(part)) + "\x00",
    ):
        assert effort(partial(parse, [line])) < 0.3
