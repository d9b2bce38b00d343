"""`mirror config`: the effective configuration, which loads again, and no secret in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from mirror.config import Config
from mirror.configfile import dump
from tests.support.configs import load_env, load_text

SECRETS = """
version: 0.1
log:
  hooks: [{type: mail, options: {smtp: {password: hunter2}, from: a@b.example}}]
storage: {filesystem: {rootdirectory: /x}}
http:
  secret: hunter2
  host: https://user:hunter2@a.example
  headers: {Authorization: [Basic hunter2], X-Auth-Token: [hunter2], X-A: [b]}
notifications: {endpoints: [{name: a, url: 'http://u:hunter2@b', headers: {authorization: [hunter2]}}]}
redis: {password: hunter2, sentinelpassword: hunter2, tls: {key: /path/of.key}}
middleware: {registry: [{name: a, options: {privatekey: hunter2, private_key: hunter2, url: 'x'}}]}
reporting: {bugsnag: {apikey: hunter2}, newrelic: {licensekey: hunter2}}
proxy: {username: u, password: hunter2}
"""


def test_no_secret_is_shown_and_all_else_is(tmp_path: Path) -> None:
    text = dump(load_text(tmp_path, SECRETS).config)
    assert "hunter2" not in text
    shown = yaml.safe_load(text)
    assert shown["proxy"]["password"] == "***"
    assert shown["http"]["secret"] == "***"
    assert shown["http"]["host"] == "https://***@a.example"
    assert shown["http"]["headers"] == {"Authorization": ["***"], "X-Auth-Token": ["***"], "X-A": ["b"]}
    assert shown["redis"]["tls"]["key"] == "/path/of.key"
    assert shown["log"]["hooks"][0]["options"]["from"] == "a@b.example"


def test_an_identity_token_is_not_shown() -> None:
    text = dump(load_env({"REGISTRY_PROXY_IDENTITYTOKEN": "hunter2"}).config)
    assert "hunter2" not in text
    assert yaml.safe_load(text)["proxy"]["identitytoken"] == "***"


def test_what_is_shown_loads_again_as_the_same(tmp_path: Path) -> None:
    text = """
version: 0.1
log: {level: DEBUG, fields: {a: 1, b: x}}
storage: {inmemory: {}, cache: {blobdescriptorsize: 5}}
http: {addr: '[::1]:1', draintimeout: 90s, headers: {X-A: ['0123', 'yes']}}
health: {http: [{uri: 'http://a', interval: 1m30s}]}
proxy: {remoteurl: 'http://127.0.0.1:1/a/', realms: [a, b], deadline: 500ms, ttl: 0, freshness: {default: 1h}}
cache: {maxsize: 2GiB, minfree: 5%}
"""
    config = load_text(tmp_path, text).config
    assert load_text(tmp_path, dump(config)).config == config
    assert load_text(tmp_path, dump(Config())).config == Config()


def test_what_is_not_in_effect_is_shown_only_where_it_was_given() -> None:
    assert set(yaml.safe_load(dump(Config()))) == {
        "version",
        "log",
        "storage",
        "http",
        "catalog",
        "tags",
        "proxy",
    }
    assert "ttl" not in yaml.safe_load(dump(Config()))["proxy"]
    given = yaml.safe_load(
        dump(load_env({"REGISTRY_PROXY_TTL": "1h", "REGISTRY_CACHE_MAXSIZE": "1GiB"}).config)
    )
    assert given["proxy"]["ttl"] == "1h"
    assert given["cache"] == {"maxsize": str(1 << 30)}
