"""`mirror config`: the effective configuration, which loads again, and no secret in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mirror.config import Config
from mirror.configfile import dump
from tests.support.configs import load_env, load_text

SECRETS = """
version: 0.1
log:
  fields: {a: 'https://user:hunter2@a.example', token: hunter2, from: a@b.c, deep: {private_key: hunter2}}
  hooks: [{type: mail, options: {smtp: {password: hunter2}, from: a@b.example}}]
storage: {filesystem: {rootdirectory: /x}}
http:
  secret: hunter2
  host: https://user:hunter2@a.example
  headers: {Authorization: [Basic hunter2], X-Auth-Token: [hunter2], X-A: [b]}
health: {http: [{uri: 'http://u:hunter2@b/?token=hunter2', headers: {X-Key: [hunter2]}}]}
notifications:
  endpoints: [{name: a, url: 'http://u:hunter2@b/?token=hunter2', headers: {authorization: [hunter2]}}]
redis: {password: hunter2, sentinelpassword: hunter2, tls: {key: /path/of.key}}
middleware: {registry: [{name: a, options: {privatekey: hunter2, private_key: hunter2, url: 'x'}}]}
reporting: {bugsnag: {apikey: hunter2}, newrelic: {licensekey: hunter2}}
proxy: {remoteurl: 'https://a', username: u, password: hunter2}
"""


def test_no_secret_is_shown_and_all_else_is(tmp_path: Path) -> None:
    text = dump(load_text(tmp_path, SECRETS).config)
    assert "hunter2" not in text
    shown = yaml.safe_load(text)
    assert shown["proxy"]["password"] == "***"
    assert shown["http"]["headers"] == {"Authorization": ["***"], "X-Auth-Token": ["***"], "X-A": ["b"]}
    assert shown["log"]["fields"] == {
        "a": "https://***@a.example",
        "token": "***",
        "from": "a@b.c",
        "deep": {"private_key": "***"},
    }


def test_an_identity_token_is_not_shown() -> None:
    text = dump(
        load_env({"REGISTRY_PROXY_REMOTEURL": "https://a", "REGISTRY_PROXY_IDENTITYTOKEN": "hunter2"}).config
    )
    assert "hunter2" not in text
    assert yaml.safe_load(text)["proxy"]["identitytoken"] == "***"


def test_what_is_shown_loads_again_as_the_same(tmp_path: Path) -> None:
    text = """
version: 0.1
log: {level: DEBUG, fields: {a: 1, b: x}}
storage: {inmemory: {}, cache: {blobdescriptorsize: 5}}
http: {addr: '[::1]:1', draintimeout: 90s, headers: {X-A: ['0123', 'yes']}, debug: {addr: '[::1]:2'}}
health: {storagedriver: {enabled: true, threshold: 3}, file: [{file: /a}], tcp: [{addr: ':1', timeout: 50ms}]}
notifications: {endpoints: [{name: a, url: 'http://b/c', backoff: 2s, ignore: {actions: [pull]}}]}
proxy: {remoteurl: 'http://127.0.0.1:1/a/', realms: [a, b], deadline: 30ns, timeouts: {stall: 1.5s}}
"""
    config = load_text(tmp_path, text).config
    assert load_text(tmp_path, dump(config)).config == config
    assert load_text(tmp_path, dump(Config())).config == Config()


def test_only_what_is_in_effect_is_shown(tmp_path: Path) -> None:
    """Also where more was given: a warning has named that."""
    keys = {
        "version",
        "log",
        "storage",
        "auth",
        "http",
        "catalog",
        "tags",
        "proxy",
        "cache",
        "health",
        "notifications",
    }
    shown = yaml.safe_load(dump(load_text(tmp_path, SECRETS).config))
    assert set(shown) == set(yaml.safe_load(dump(Config()))) == keys
    assert set(shown["http"]) == {
        "addr",
        "net",
        "host",
        "prefix",
        "draintimeout",
        "limits",
        "headers",
        "debug",
        "http2",
        "fastlane",
        "tls",
        "trustedproxies",
        "eventloop",
    }
    text = """
version: 0.1
storage: {inmemory: {}, cache: {blobdescriptor: redis, layerinfo: inmemory}, delete: {enabled: true}, tag: {}}
proxy: {ttl: 1h, cachewritetimeout: 1h}
cache: {maxsize: 2GiB}
auth: none
"""
    shown = yaml.safe_load(dump(load_text(tmp_path, text).config))
    assert set(shown) == keys
    assert set(shown["storage"]) == {"inmemory", "cache", "maintenance", "redirect"}
    assert shown["storage"]["maintenance"] == {"readonly": {"enabled": False}}
    assert shown["storage"]["cache"] == {"layerinfo": "inmemory", "blobdescriptorsize": 10000}
    assert "cachewritetimeout" not in shown["proxy"]
    assert (shown["proxy"]["ttl"], shown["cache"]["maxsize"]) == ("1h", "2GiB")


def test_a_relative_folder_is_shown_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        yaml.safe_load(dump(load_env({}).config))["storage"]["filesystem"]["rootdirectory"]
        == f"{tmp_path}/data"
    )
