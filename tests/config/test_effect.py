"""The table of keys that do not do what they do in the registry: each is refused or warned of, and once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.configeffect import RULES, Effect
from mirror.configfile import ConfigError
from mirror.configproblems import Problem
from mirror.configschema import ROOT, paths
from tests.support.configs import MINIMAL, load_text, remarks

GIVEN = {  # something at each key of the table that is not like nothing
    "http.tls.letsencrypt": "{cachefile: /c, email: a@b.example, hosts: [m.example]}",
    "storage.swift.accesskey": "a",
    "storage.swift.secretkey": "b",
    "storage.swift.tempurlcontainerkey": "true",
    "storage.swift.tempurlmethods": "[GET]",
    "middleware.storage": "[{name: cloudfront}]",
    "http.h2c": "{enabled: true}",
    "redis": "{addr: 'a:1'}",
    "storage.cache.blobdescriptor": "redis",
    "storage.cache.layerinfo": "redis",
    "storage.s3.loglevel": "debug",
    "storage.s3.multipartcopychunksize": "33554432",
    "storage.s3.multipartcopymaxconcurrency": "'50'",
    "storage.s3.multipartcopythresholdsize": "33554432",
    "storage.s3.v4auth": "false",
    "log.hooks": "[{type: mail}]",
    "log.reportcaller": "true",
    "http.relativeurls": "true",
    "http.secret": "s",
    "storage.delete": "{enabled: true}",
    "storage.tag": "{concurrencylimit: 5}",
    "storage.maintenance.uploadpurging": "{enabled: true, age: 168h, interval: 24h, dryrun: false}",
    "proxy.cachewritetimeout": "5m",
    "validation": "{manifests: {urls: {allow: [a]}}}",
    "policy": "{repository: {classes: [image]}}",
    "compatibility": "{schema1: {enabled: true}}",
    "reporting": "{bugsnag: {apikey: k}}",
    "middleware.registry": "[{name: a}]",
    "middleware.repository": "[{name: a}]",
}


def document(key: str, value: str) -> str:
    """A file with this value at this key, and with a storage driver."""
    if key.startswith("storage."):
        inner = value
        for part in reversed(key.split(".")[1:]):
            inner = f"{{{part}: {inner}}}"
        if key.startswith("storage.s3."):
            inner = inner.replace("{s3: {", "{s3: {bucket: b01, region: us-east-1, ")
        if key.startswith("storage.swift."):
            login = "authurl: 'https://s/v1.0', username: u, password: p, container: c01"
            inner = inner.replace("{swift: {", f"{{swift: {{{login}, ")
        is_driver = key.startswith(("storage.s3.", "storage.swift."))
        driver = "" if RULE[key].effect is Effect.REFUSED or is_driver else "inmemory: {}, "
        return f"version: 0.1\nstorage: {{{driver}{inner[1:-1]}}}\n"
    first, *rest = key.split(".")
    for part in reversed(rest):
        value = f"{{{part}: {value}}}"
    return f"{MINIMAL}{first}: {value}\n"


RULE = {rule.key: rule for rule in RULES}


def test_the_table_names_known_keys_each_once() -> None:
    assert len(RULE) == len(RULES)
    assert set(RULE) == set(GIVEN)
    assert set(RULE) <= set(paths(ROOT))


@pytest.mark.parametrize("key", [rule.key for rule in RULES if rule.effect is Effect.REFUSED])
def test_what_would_be_unsafe_to_ignore_stops_the_start(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(tmp_path, document(key, GIVEN[key]))
    said = str(refused.value)
    assert said.endswith(f": {key}: {RULE[key].why}")
    assert "\n" not in said


@pytest.mark.parametrize("key", [rule.key for rule in RULES if rule.effect is not Effect.REFUSED])
def test_what_is_not_in_effect_gets_one_warning(tmp_path: Path, key: str) -> None:
    loaded = load_text(tmp_path, document(key, GIVEN[key]))
    assert [(warning.key, warning.text) for warning in remarks(loaded)] == [
        (key, f"{RULE[key].effect.value}: {RULE[key].why}")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "auth: none\n",
        "auth: {none: {}}\n",
        "auth: {}\n",
        "auth:\n",
        "http: {tls: {certificate: '', key: '', clientcas: []}, net: tcp, secret: ''}\n",
        "http: {debug: {prometheus: {enabled: false, path: /metrics}}, h2c: {enabled: false}}\n",
        "middleware: {storage: [{name: cloudfront, disabled: true}]}\n",
        "proxy: {upstreams: {}, exec: }\n",
        "health: {storagedriver: {enabled: false, interval: 10s, threshold: 3}}\n",
        "notifications: {endpoints: [{name: a, disabled: true}]}\n",
        "log: {hooks: [], reportcaller: false}\n",
    ],
)
def test_what_is_empty_or_switched_off_is_not_given(tmp_path: Path, text: str) -> None:
    assert remarks(load_text(tmp_path, MINIMAL + text)) == []


def test_a_refused_key_in_a_variable_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"\AREGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL: http\.tls\.letsencrypt: not"
    ):
        load_text(tmp_path, MINIMAL, REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL="a@b.example")


@pytest.mark.parametrize(
    ("text", "environ", "key"),
    [
        ("http: {tls: {letsencrypt: {email: [a]}}}\n", {}, "http.tls.letsencrypt"),
        (
            "",
            {"REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL": "b", "REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE": "f"},
            "http.tls.letsencrypt",
        ),
    ],
)
def test_a_refused_key_gets_one_line_whatever_is_below_it(
    tmp_path: Path, text: str, environ: dict[str, str], key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(tmp_path, MINIMAL + text, **environ)
    assert [problem.key for problem in refused.value.problems if isinstance(problem, Problem)] == [key]
    assert str(refused.value).endswith(f": {key}: {RULE[key].why}")
