"""The effective configuration as text, for people: with secrets hidden, and without what says nothing."""

from __future__ import annotations

from typing import Any

import yaml

from mirror.config import Config
from mirror.configeffect import RULES
from mirror.configsecrets import HIDDEN, is_secret, redacted


def dump(config: Config) -> str:
    """YAML that `configfile.load` takes again: every key in effect, `***` for each secret.

    What this version does not act on (see `configeffect`) stands there only where it was given.
    """
    tree = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    default = Config().model_dump(mode="json", by_alias=True, exclude_none=True)
    for rule in RULES:
        _drop_default(tree, default, rule.key.split("."))
    return yaml.safe_dump(_hidden(tree, secret=False), sort_keys=False, allow_unicode=True)


def _drop_default(tree: dict[str, Any], default: dict[str, Any], path: list[str]) -> None:
    """Leave the key at `path` out where it has its default value, and sections that are empty then."""
    key, *below = path
    if key not in tree or key not in default:
        return
    if below and isinstance(tree[key], dict):
        _drop_default(tree[key], default[key], below)
        if not tree[key]:
            del tree[key]
    elif tree[key] == default[key]:
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
