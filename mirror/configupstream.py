"""The rules between the keys of upstreams, and which upstream is meant.

Those between the keys of one are judged on the tree, so that all of them are said at once, with their lines;
those between upstreams on the models. Nothing here opens a file: see `mirror.configusable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from mirror.cache.freshness import Rule
from mirror.config import Proxy
from mirror.configheaders import check_headers
from mirror.confighints import UPSTREAMS, meant
from mirror.confignames import DEFAULT_REMOTEURL, HUB_NAMES, OPEN, host_of, is_anybodys, is_pattern
from mirror.configproblems import Problem, Warning_, find, is_given, joined, says_something
from mirror.configproxy import Upstream
from mirror.configschema import slip
from mirror.configtree import Table, Tree, is_null

REMOTEURL: Final = "proxy.remoteurl"
_LOGINS: Final = (("username", "password"), ("identitytoken",), ("exec",), ("dockerconfig",))
_ONE_LOGIN: Final = "username and password, identitytoken, exec or dockerconfig"
_SECRETS: Final = ("username", "password", "identitytoken", "headers", "clientcert")  # not kept by host
_FOR_SOMEBODY: Final = ("username", "password", "identitytoken", "exec", "headers", "clientcert")
_OF_ONE_REGISTRY: Final = ("remoteurl", "remoteurls", "aliases")
_PORTS: Final = {"http": 80, "https": 443}
_WEBSITES: Final = frozenset({"docker.io", "www.docker.io", "hub.docker.com", "docker.com", "www.docker.com"})

Path = tuple[str, ...]  # of an upstream: ("proxy", "upstreams", "ghcr.io")
Keys = tuple[str | int, ...]  # of anything below


def sections(proxy: Proxy) -> Iterator[tuple[Path, Upstream]]:
    """Every upstream, and the keys that lead to it; the default one first."""
    yield ("proxy",), proxy
    for namespace, entry in proxy.upstreams.items():
        yield ("proxy", "upstreams", namespace), entry


def check_default(
    tree: Table, *, from_file: bool, ignored: Sequence[str] = ()
) -> tuple[list[Problem], list[Warning_]]:
    """No login goes to a registry that nobody named, and Docker Hub is not mirrored by oversight.

    `ignored`: the variables that were not taken, and look as if this key was meant.
    """
    proxy, source = find(tree, ("proxy",))
    if proxy is not None and not isinstance(proxy, Table) and not is_null(proxy):
        return [], []  # of the wrong shape, which is reported elsewhere
    entries = proxy.entries if isinstance(proxy, Table) else {}
    if any(says_something(entries.get(key)) for key in ("remoteurl", "remoteurls")):
        return [], []
    if any(slip(key, ["remoteurl", "remoteurls"]) for key in entries.keys() - {"remoteurl", "remoteurls"}):
        return [], []  # reported as an unknown key
    for key in _FOR_SOMEBODY:
        if says_something(entries.get(key)):
            text = (
                f"missing, wanted beside proxy.{key}: the registry that it is for "
                f"(Docker Hub's is {DEFAULT_REMOTEURL})"
            )
            if ignored:
                text += f"; {ignored[0]} is no variable, write REGISTRY_PROXY_REMOTEURL"
            return [Problem(entries[key].source, REMOTEURL, text)], []
    if not from_file and not entries:
        return [], []  # without any configuration Docker Hub is what is documented
    text = f"not set, so Docker Hub is mirrored; write {DEFAULT_REMOTEURL} there if that is meant"
    return [], [Warning_(source, REMOTEURL, text)]


def check_keys(tree: Table) -> list[Problem]:
    """What does not go together within one upstream."""
    proxy, _ = find(tree, ("proxy",))
    if not isinstance(proxy, Table):
        return []
    problems = _check_one(proxy, ("proxy",))
    upstreams = proxy.entries.get("upstreams")
    for namespace, entry in upstreams.entries.items() if isinstance(upstreams, Table) else ():
        if isinstance(entry, Table):
            at = ("proxy", "upstreams", namespace)
            problems += _check_one(entry, at)
            problems += _check_pattern(entry, at) if is_pattern(namespace) else []
    return problems


def _check_one(table: Table, at: Path) -> list[Problem]:
    entries = table.entries
    problems = _check_login(entries, at) + _missing(entries, at, "clientkey", "clientcert")
    if says_something(entries.get("remoteurl")) and says_something(entries.get("remoteurls")):
        text = f"given beside {joined(*at, 'remoteurl')}, wanted one of the two"
        problems.append(Problem(entries["remoteurls"].source, joined(*at, "remoteurls"), text))
    headers = entries.get("headers")
    return problems + (check_headers(headers, at) if isinstance(headers, Table) else [])


def _check_login(entries: Mapping[str, Tree], at: Path) -> list[Problem]:
    """One login, and that whole."""
    problems = [
        *_missing(entries, at, "username", "password", "; for no login leave both out"),
        *_missing(entries, at, "password", "username", "; for no login leave both out"),
    ]
    logins = [[key for key in login if says_something(entries.get(key))] for login in _LOGINS]
    first, *more = [keys[0] for keys in logins if keys] or [""]
    for key in more:
        text = f"given beside {joined(*at, first)}, wanted one login only: {_ONE_LOGIN}"
        problems.append(Problem(entries[key].source, joined(*at, key), text))
    program = entries.get("exec")
    if isinstance(program, Table) and says_something(program):
        keys = program.entries
        if not is_given(keys.get("command")) and not any(slip(key, ["command"]) for key in keys):
            text = "missing, wanted the program that gives the login"
            problems.append(Problem(program.source, joined(*at, "exec.command"), text))
    return problems


def _missing(entries: Mapping[str, Tree], at: Path, key: str, other: str, rest: str = "") -> list[Problem]:
    """The problem that `other` is not there beside `key`, if it is one."""
    if not says_something(entries.get(key)) or says_something(entries.get(other)):
        return []
    as_other = meant if at[:2] == UPSTREAMS else slip
    if any(name != other and as_other(name, [other]) for name in entries):
        return []  # reported as an unknown key
    text = f"missing, wanted beside {joined(*at, key)}{rest}"
    return [Problem(entries[key].source, joined(*at, other), text)]


def _check_pattern(entry: Table, at: Path) -> list[Problem]:
    """A pattern's hosts are asked by their own names; anybody's get no secret that is not kept by host."""
    problems = []
    for key in _OF_ONE_REGISTRY:
        if says_something(entry.entries.get(key)):
            text = "not for a pattern: each host that fits it is asked by its own name, by https"
            problems.append(Problem(entry.entries[key].source, joined(*at, key), text))
    for key in _SECRETS if is_anybodys(at[-1]) else ():
        if says_something(entry.entries.get(key)):
            text = f'not for "{at[-1]}": it would be sent to whatever host a client names; '
            text += "use exec or dockerconfig"
            problems.append(Problem(entry.entries[key].source, joined(*at, key), text))
    return problems


def check_names(proxy: Proxy, tree: Table) -> list[Problem]:
    """No name means two upstreams. One line for each upstream that has a name of another's."""
    problems = []
    owners: dict[str, Path] = {}
    for at, upstream in sections(proxy):
        names = upstream.names(proxy.namespace if upstream is proxy else at[-1])
        taken = next((name for name in names if name in owners), None)
        if taken is not None:
            problems.append(_taken(taken, at, owners[taken], upstream, tree))
        for name in names:
            owners.setdefault(name, at)
    return problems


def _taken(name: str, at: Path, owner: Path, upstream: Upstream, tree: Table) -> Problem:
    path: Keys = (*at, "aliases", upstream.aliases.index(name)) if name in upstream.aliases else at
    hub = f" ({', '.join(HUB_NAMES)} are one registry)" if name in HUB_NAMES else ""
    whose = joined(*owner) if owner[1:] else "the default upstream, proxy.remoteurl"
    text = f"the name {name} is also that of {whose}; wanted one upstream for a name{hub}"
    if not owner[1:]:
        text += ": write what is meant for this one directly below proxy"
    return Problem(find(tree, path)[1], joined(*path), text)


def check_urls(proxy: Proxy, tree: Table) -> list[Problem]:
    """No URL twice for one upstream: what fails would be asked again at once."""
    problems = []
    for at, upstream in sections(proxy):
        seen: dict[tuple[object, ...], int] = {}
        for number, url in enumerate(upstream.remoteurls):
            first = seen.setdefault(_address(url), number)
            if first != number:
                text = f"got the same as {joined(*at, 'remoteurls', first)}, wanted each URL once"
                path: Keys = (*at, "remoteurls", number)
                problems.append(Problem(find(tree, path)[1], joined(*path), text))
    return problems


def _address(url: str) -> tuple[object, ...]:
    """Where a URL of `parse_remoteurl` leads, however it is written."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme], parts.path


def doubtful(proxy: Proxy, tree: Table) -> list[Warning_]:
    """What can be used as it stands, and is hardly meant so."""
    return [*_websites(proxy, tree), *_rules(proxy, tree), *_open_mode(proxy, tree)]


def _open_mode(proxy: Proxy, tree: Table) -> list[Warning_]:
    if OPEN not in proxy.upstreams:
        return []
    path = (*UPSTREAMS, OPEN)
    text = "any client can make the mirror connect to any public host on port 443, and fill the disk"
    return [Warning_(find(tree, path)[1], joined(*path), text)]


def _rules(proxy: Proxy, tree: Table) -> list[Warning_]:
    """Freshness rules behind one that fits all that they do.

    A pattern that fits the text of another one, stars and all, fits whatever that one fits.
    """
    warnings = []
    rules = [Rule(rule.match, rule.fresh) for rule in proxy.freshness.rules]
    for number, rule in enumerate(rules):
        above = next((n for n, other in enumerate(rules[:number]) if _fits_all(other, rule)), None)
        if above is not None:
            path: Keys = ("proxy", "freshness", "rules", number)
            text = f"never counts: the first that fits does, and rules[{above}] fits all that this one fits"
            warnings.append(Warning_(find(tree, path)[1], joined(*path), text))
    return warnings


def _fits_all(rule: Rule, other: Rule) -> bool:
    return rule.match == "*:*" or rule.fits(other.match)  # every name has a colon


def _websites(proxy: Proxy, tree: Table) -> list[Warning_]:
    """Docker's websites are not its registry, though its images are named after one of them."""
    warnings = []
    for at, upstream in sections(proxy):
        for number, url in enumerate(upstream.remoteurls):
            host = host_of(url).partition(":")[0]
            if host in _WEBSITES:
                several = find(tree, (*at, "remoteurls", number))[0]
                path: Keys = (*at, "remoteurls", number) if several is not None else (*at, "remoteurl")
                text = f"{host} is a website; Docker Hub's registry is {DEFAULT_REMOTEURL}"
                warnings.append(Warning_(find(tree, path)[1], joined(*path), text))
    return warnings
