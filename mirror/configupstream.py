"""The rules between the keys of upstreams, and which upstream is meant.

Those between the keys of one are judged on the tree, so that all of them are said at once, with their lines;
those between upstreams on the models. Nothing here opens a file: see `mirror.configusable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mirror.config import Proxy
from mirror.configheaders import check_headers
from mirror.confignames import DEFAULT_REMOTEURL, HUB_NAMES, OPEN, host_of, is_pattern
from mirror.configproblems import Problem, Warning_, find, is_given, joined, says_something
from mirror.configproxy import Upstream
from mirror.configschema import slip
from mirror.configtree import Table, is_null

REMOTEURL: Final = "proxy.remoteurl"
_LOGIN: Final = ("username", "password")
_LOGINS: Final = (_LOGIN, ("identitytoken",), ("exec",), ("dockerconfig",))  # one of these
_SECRETS: Final = ("username", "password", "identitytoken", "headers", "clientcert")  # not kept by host
_FOR_SOMEBODY: Final = ("username", "password", "identitytoken", "exec", "headers", "clientcert")
_OF_ONE_REGISTRY: Final = ("remoteurl", "remoteurls", "aliases")
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
    problems = []

    def beside(key: str, text: str, source: str) -> None:
        problems.append(Problem(source, joined(*at, key), text))

    def given(key: str) -> bool:
        return says_something(entries.get(key))

    def needs(key: str, other: str, rest: str = "") -> None:
        if given(key) and not given(other):
            beside(other, f"missing, wanted beside {joined(*at, key)}{rest}", entries[key].source)

    if given("remoteurl") and given("remoteurls"):
        text = f"given beside {joined(*at, 'remoteurl')}, wanted one of the two"
        beside("remoteurls", text, entries["remoteurls"].source)
    needs("username", "password", "; for no login leave both out")
    needs("password", "username", "; for no login leave both out")
    needs("clientkey", "clientcert")
    logins = [[key for key in login if given(key)] for login in _LOGINS]
    first, *more = [keys[0] for keys in logins if keys] or [""]
    for key in more:
        text = f"given beside {joined(*at, first)}, wanted one login only: {_either()}"
        beside(key, text, entries[key].source)
    program = entries.get("exec")
    if (
        isinstance(program, Table)
        and says_something(program)
        and not is_given(program.entries.get("command"))
    ):
        beside("exec.command", "missing, wanted the program that gives the login", program.source)
    headers = entries.get("headers")
    return [*problems, *(check_headers(headers, at) if isinstance(headers, Table) else [])]


def _either() -> str:
    names = [" and ".join(login) for login in _LOGINS]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _check_pattern(entry: Table, at: Path) -> list[Problem]:
    """A pattern's hosts are asked by their own names, and `*` gets no secret that is not kept by host."""
    problems = []
    for key in _OF_ONE_REGISTRY:
        if says_something(entry.entries.get(key)):
            text = "not for a pattern: each host that fits it is asked by its own name, by https"
            problems.append(Problem(entry.entries[key].source, joined(*at, key), text))
    for key in _SECRETS if at[-1] == OPEN else ():
        if says_something(entry.entries.get(key)):
            text = 'not for "*": it would be sent to whatever host a client names; use exec or dockerconfig'
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


def check_websites(proxy: Proxy, tree: Table) -> list[Warning_]:
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
