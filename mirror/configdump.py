"""The effective configuration as text, for people: with secrets hidden, and without what does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from mirror.config import UNIX, Config
from mirror.configeffect import RULES
from mirror.configsecrets import HIDDEN, is_secret, redacted

_PATHS: Final = (
    "rootdirectory",
    "folder",
    "ca",
    "clientcert",
    "clientkey",
    "dockerconfig",
    "certificate",
    "key",
    "keyfile",
    "path",
    "rootcertbundle",
    "jwks",
)


def dump(config: Config) -> str:
    """YAML that `configfile.load` takes again: every key in effect, `***` for each secret, whole paths.

    What this version does not act on (see `configeffect`) is left out: warnings name it where it was given.
    """
    tree = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for rule in RULES:
        _drop(tree, rule.key.split("."), rule.value)
    proxy = tree["proxy"]
    upstreams = (proxy, *proxy["upstreams"].values())
    tls = tree["http"]["tls"]
    tls["clientcas"] = [str(Path(path).absolute()) for path in tls["clientcas"]]
    if tree["http"]["net"] == UNIX:
        tree["http"]["addr"] = str(Path(tree["http"]["addr"]).absolute())
    for section in (
        tree["storage"].get("filesystem", {}),
        tree["storage"].get("gcs", {}),
        tls,
        tree["cache"],
        tree["cache"]["disk"],
        *upstreams,
        *tree["auth"].values(),
    ):
        for name in _PATHS:
            if section.get(name):
                section[name] = str(Path(section[name]).absolute())
    for upstream in upstreams:
        _one_of_both(upstream)
    return yaml.safe_dump(_hidden(tree, secret=False), sort_keys=False, allow_unicode=True)


def _one_of_both(upstream: dict[str, Any]) -> None:
    """`remoteurl` or `remoteurls`, as only one of them may be given; a pattern has neither."""
    urls = upstream["remoteurls"]
    if len(urls) < 2:
        del upstream["remoteurls"]
    if len(urls) != 1:
        del upstream["remoteurl"]


def _drop(tree: dict[str, Any], path: list[str], value: str | None) -> None:
    """Leave the key at `path` out, where it has `value` or any is meant, and sections that are empty then."""
    key, *below = path
    if key not in tree:
        return
    if below:
        _drop(tree[key], below, value)
    if tree[key] == value or (value is None and not below) or (below and not tree[key]):
        del tree[key]


def _hidden(value: Any, *, secret: bool) -> Any:
    """The same tree with secrets hidden: by key, also in sections of free form, and in URLs."""
    if isinstance(value, dict):
        return {key: _hidden(item, secret=is_secret(str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item, secret=secret) for item in value]
    if secret and value not in ("", None):
        return HIDDEN
    return redacted(value) if isinstance(value, str) else value
