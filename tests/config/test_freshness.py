"""How long a tag is believed: the rules, and the share of a quota that is kept back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mirror.configfile import ConfigError, dump
from mirror.configproxy import Proxy
from mirror.configvalues import parse_share
from tests.support.configs import MINIMAL, load_env, load_text


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
