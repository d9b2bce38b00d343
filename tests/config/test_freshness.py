"""How long a tag is believed: the rules, and the share of a quota that is kept back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mirror.cache.freshness import Rule
from mirror.configfile import ConfigError, dump
from mirror.configproxy import Proxy
from mirror.configvalues import parse_share
from tests.support.configs import MINIMAL, load_env, load_text, remarks


def proxy_of(folder: Path, text: str) -> Proxy:
    """The `proxy` section that this YAML comes to."""
    return load_text(folder, f"{MINIMAL}proxy: {text}\n").config.proxy


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error that this `proxy` section leads to, without the file's line."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, f"{MINIMAL}proxy: {text}\n")
    return str(refused.value).replace(f"{folder}/config.yml:3: ", "").splitlines()


def test_freshness_rules_keep_their_order(tmp_path: Path) -> None:
    text = (
        "{freshness: {default: 0, rules: [{match: '*:latest', fresh: 10s}, {match: a/b:1, fresh: 0}, "
        "{match: 'quay.io/*', fresh: 1h}]}, stale: 0, negative: 0, quota: {reserve: 0}}"
    )
    proxy = proxy_of(tmp_path, text)
    assert [(rule.match, rule.fresh) for rule in proxy.freshness.rules] == [
        ("*:latest", 10.0),
        ("a/b:1", 0.0),
        ("quay.io/*", 3600.0),
    ]
    assert (proxy.freshness.default, proxy.stale, proxy.negative, proxy.quota.reserve) == (0.0, 0.0, 0.0, 0.0)


MATCH = "wanted a pattern of repository:tag, such as *:latest or library/*, with 4 * at most"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{match: alpine, fresh: 1s}", f"match: got 'alpine', {MATCH}"),
        ("{match: 'a?:b', fresh: 1s}", f"match: got 'a?:b', {MATCH}"),
        ("{match: '*a*b*c*d*', fresh: 1s}", f"match: got '*a*b*c*d*', {MATCH}"),
        ("{fresh: 1s}", "match: missing, wanted a value; this key is required here"),
        ("{match: '*'}", "fresh: missing, wanted a value; this key is required here"),
        (
            "{match: '*', fresh: -1s}",
            "fresh: got '-1s', wanted a duration from 0s to 596523h14m8s, such as 30s",
        ),
    ],
)
def test_a_freshness_rule_that_can_fit_nothing_is_refused(tmp_path: Path, rule: str, said: str) -> None:
    text = f"{{freshness: {{rules: [{{match: '*:a', fresh: 1s}}, {rule}]}}}}"
    assert problems(tmp_path, text) == [f"proxy.freshness.rules[1].{said}"]


@pytest.mark.parametrize(
    ("given", "written"),
    [("5m", "5m"), ("0", "0"), ("300", "300s"), ("soon", "1m"), ("[5m]", "1m"), ("-", "1m")],
)
def test_freshness_without_its_key_is_shown_with_it(tmp_path: Path, given: str, written: str) -> None:
    (said,) = problems(tmp_path, f"{{freshness: {given}}}")
    shown = "a list" if given == "[5m]" else repr(given)
    assert said == (
        f"proxy.freshness: got {shown}, wanted a section of keys: write freshness: {{default: {written}}}"
    )
    assert proxy_of(tmp_path, f"{{freshness: {{default: {written}}}}}").freshness.rules == ()


def never_count(folder: Path, *matches: str) -> list[tuple[str, str]]:
    """The keys of the rules that are said never to count, and the rule that is said to be the reason."""
    rules = ", ".join(f"{{match: '{match}', fresh: 1s}}" for match in matches)
    loaded = load_text(folder, f"{MINIMAL}proxy: {{freshness: {{rules: [{rules}]}}}}\n")
    assert all(said.text.startswith("never counts: ") for said in remarks(loaded))
    return [(said.key.removeprefix("proxy.freshness."), said.text.split()[8]) for said in remarks(loaded)]


def test_a_rule_behind_one_that_fits_all_that_it_does_is_told(tmp_path: Path) -> None:
    assert never_count(tmp_path, "*", "*:latest", "a/*") == [
        ("rules[1]", "rules[0]"),
        ("rules[2]", "rules[0]"),
    ]
    assert never_count(tmp_path, "a:1", "*:latest", "*:latest") == [("rules[2]", "rules[1]")]
    assert never_count(tmp_path, "a:1", "a:1") == [("rules[1]", "rules[0]")]
    assert never_count(tmp_path, "library/*", "library/alpine:*") == [("rules[1]", "rules[0]")]
    assert never_count(tmp_path, "*:*", "quay.io/*") == [("rules[1]", "rules[0]")]
    assert never_count(tmp_path, "**", "*") == [("rules[1]", "rules[0]")]


def test_a_rule_that_fits_something_of_its_own_is_not(tmp_path: Path) -> None:
    assert never_count(tmp_path, "*:latest", "library/*", "library/alpine:3", "*a*", "*") == [
        ("rules[2]", "rules[1]")
    ]
    assert never_count(tmp_path, "a*b:1", "a*:1", "*a:1", "a:1", "*") == [("rules[3]", "rules[1]")]


@given(st.text("ab:*", max_size=6), st.text("ab:*", max_size=6), st.text("ab:", max_size=8))
def test_what_a_rule_is_said_to_fit_wholly_it_fits(earlier: str, later: str, name: str) -> None:
    """Of patterns as rules take them; with this, no warning is wrong."""
    if Rule(earlier, 0).fits(later) and Rule(later, 0).fits(name):
        assert Rule(earlier, 0).fits(name)


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("0", 0.0), ("0%", 0.0), ("100%", 1.0), ("2.5 %", 0.025), ("7%", 0.07)]
)
def test_a_share_is_written_in_percent(text: str, share: float) -> None:
    assert parse_share(text) == share
    config = load_env({"REGISTRY_PROXY_QUOTA_RESERVE": text}).config
    written = yaml.safe_load(dump(config))["proxy"]["quota"]["reserve"]
    assert parse_share(written) == share


@pytest.mark.parametrize("text", ["10", "0.1", "101%", "-1%", "%", "", "1e1%", "10%%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a share from 0% to 100%, such as 10%"):
        parse_share(text)
