"""Which known keys do not do what they do in the registry: one table, shorter with each release.

REFUSED stops the start: ignoring the key would leave something open, unencrypted or in the wrong place.
LATER is read and checked, with a warning that it is not in effect yet. NEVER has no meaning for a mirror that
clients only read from, and NOTHING has none for other reasons. A key counts as given when something stands
there that is not empty, not false, and not a section with `disabled: true` or `enabled: false`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mirror.configproblems import Problem, Warning_, find, text_of
from mirror.configschema import ROOT, Struct, nearest
from mirror.configtree import Items, Scalar, Table, Tree
from mirror.configvalues import parse_flag


class Effect(Enum):
    """What giving a key leads to."""

    REFUSED = "refused"
    LATER = "not in effect in this version"
    NEVER = "has no effect in a read-only mirror"
    NOTHING = "has no effect"


@dataclass(frozen=True, slots=True)
class Rule:
    """One key, dotted. `value`: only this value of it. `but`: a key below that is as good as nothing."""

    key: str
    effect: Effect
    why: str
    value: str | None = None
    but: str | None = None


_TEMPORARY = "URLs for clients are signed with the keys of the S3 API"
_COPIES = "nothing is copied within the bucket: what is uploaded is in its place at once"

RULES: Final = (
    Rule(
        "http.tls.letsencrypt",
        Effect.REFUSED,
        "not supported; have certbot, lego or acme.sh write a certificate and its key, and name the files in "
        "http.tls.certificate and http.tls.key: they are read anew when they change",
    ),
    Rule(
        "middleware.storage",
        Effect.REFUSED,
        "not supported: clients are sent to the bucket itself, or nowhere; remove it, and see "
        "storage.s3.redirectendpoint and storage.redirect.disable",
    ),
    Rule("http.h2c", Effect.LATER, "clients are answered in HTTP/1.1"),
    Rule("redis", Effect.LATER, "descriptors are kept in memory"),
    Rule("storage.cache.blobdescriptor", Effect.LATER, "descriptors are kept in memory", value="redis"),
    Rule("storage.cache.layerinfo", Effect.LATER, "descriptors are kept in memory", value="redis"),
    Rule("storage.swift.accesskey", Effect.NEVER, _TEMPORARY),
    Rule("storage.swift.secretkey", Effect.NEVER, _TEMPORARY),
    Rule("storage.swift.tempurlcontainerkey", Effect.NEVER, _TEMPORARY),
    Rule("storage.swift.tempurlmethods", Effect.NEVER, _TEMPORARY),
    Rule("storage.s3.loglevel", Effect.LATER, "requests to the storage are not logged one by one"),
    Rule("log.hooks", Effect.LATER, "no mail is sent"),
    Rule("log.reportcaller", Effect.LATER, "log lines do not name their place in the source"),
    Rule("storage.s3.multipartcopychunksize", Effect.NEVER, _COPIES),
    Rule("storage.s3.multipartcopymaxconcurrency", Effect.NEVER, _COPIES),
    Rule("storage.s3.multipartcopythresholdsize", Effect.NEVER, _COPIES),
    Rule("storage.s3.v4auth", Effect.NOTHING, "requests are always signed by version 4", value="false"),
    Rule("http.relativeurls", Effect.NEVER, "answers hold paths, not URLs"),
    Rule("http.secret", Effect.NEVER, "it signs uploads, and there are none"),
    Rule(
        "storage.delete",
        Effect.NEVER,
        "not needed: what expires is deleted without it, and clients cannot delete",
    ),
    Rule("storage.tag", Effect.NEVER, "it is about deleting tags"),
    Rule("storage.maintenance.uploadpurging", Effect.NEVER, "there are no uploads"),
    Rule(
        "proxy.cachewritetimeout", Effect.NEVER, "a fill may last while bytes come: see proxy.timeouts.stall"
    ),
    Rule(
        "validation", Effect.NEVER, "it is about pushed manifests; pulled ones are checked by their digests"
    ),
    Rule("policy", Effect.NEVER, "it is about pushes"),
    Rule("compatibility", Effect.NEVER, "schema 1 manifests are neither made nor converted"),
    Rule("reporting", Effect.NEVER, "no reports are sent; registry:3 has dropped it, too"),
    Rule("middleware.registry", Effect.NEVER, "there are no plug-ins"),
    Rule("middleware.repository", Effect.NEVER, "there are no plug-ins"),
)

STORAGE_OPTIONS: Final = frozenset({"cache", "delete", "maintenance", "redirect", "tag"})
_STORAGE = ROOT.fields["storage"].shape
assert isinstance(_STORAGE, Struct)
_NAMES: Final = "filesystem, inmemory, s3, azure, gcs, oss and swift"
_DRIVERS: Final = [key for key in _STORAGE.fields if key not in STORAGE_OPTIONS]
_PRESENCE: Final = frozenset(
    f"storage.{driver}" for driver in _DRIVERS
)  # without parameters it is given, too


def apply_rules(tree: Table) -> tuple[list[Problem], list[Warning_]]:
    """What the table says about this tree."""
    problems: list[Problem] = []
    warnings: list[Warning_] = []
    for rule in RULES:
        found, source = find(tree, tuple(rule.key.split(".")))
        if found is None or not _counts(found, rule):
            continue
        if rule.effect is Effect.REFUSED:
            problems.append(Problem(source, rule.key, rule.why))
        else:
            warnings.append(Warning_(source, rule.key, f"{rule.effect.value}: {rule.why}"))
    return problems, warnings


def check_driver(tree: Table) -> list[Problem]:
    """Exactly one storage driver, and one that exists."""
    storage, source = find(tree, ("storage",))
    if isinstance(storage, Scalar | Items) and not _is_empty(storage):
        return []  # of the wrong shape, which is reported elsewhere
    entries = storage.entries if isinstance(storage, Table) else {}
    drivers = [key for key in entries if key not in STORAGE_OPTIONS]
    if not drivers:
        allowed = "one driver, such as storage: {filesystem: {rootdirectory: /var/lib/registry}}"
        what = "got no driver" if entries else "missing"
        return [Problem(source, "storage", f"{what}, wanted {allowed}")]
    problems = []
    for driver in drivers:
        if driver not in _DRIVERS:
            near = nearest(driver, [*_DRIVERS, *STORAGE_OPTIONS])
            hint = f"; did you mean {near}?" if near else ""
            text = f"got {driver[:100]!r}, wanted one of the drivers {_NAMES}{hint}"
            problems.append(Problem(entries[driver].source, "storage", text))
    if len(drivers) > 1 and not problems:
        text = f"got {' and '.join(drivers)}, wanted exactly one driver; remove the other, which may come"
        problems.append(
            Problem(entries[drivers[-1]].source, "storage", f"{text} from a REGISTRY_STORAGE_* variable")
        )
    return problems


def _counts(found: Tree, rule: Rule) -> bool:
    if rule.value is not None:
        return text_of(found) == rule.value
    if rule.key in _PRESENCE:
        return True
    if rule.but is not None and isinstance(found, Table):
        return any(key != rule.but for key in found.entries)  # `htpasswd:` without parameters is meant, too
    return not _is_empty(found)


def _is_empty(tree: Tree) -> bool:
    """Whether it says nothing: null, "", false, or a section or list of such; or it is switched off."""
    if isinstance(tree, Scalar):
        return tree.kind == "null" or tree.text == "" or _flag(tree) is False
    if isinstance(tree, Table):
        off = _flag(tree.entries.get("disabled")) is True or _flag(tree.entries.get("enabled")) is False
        return off or all(_is_empty(entry) for entry in tree.entries.values())
    return all(_is_empty(entry) for entry in tree.entries)


def _flag(tree: Tree | None) -> bool | None:
    text = text_of(tree)
    if text is None:
        return None
    try:
        return parse_flag(text)
    except ValueError:
        return None
