"""The part of the composition root that makes the upstreams: their names, their clients, their joint.

Like `app` it reads `Config`, and decides nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import SecretStr

from mirror import __version__
from mirror.cache.away import ago
from mirror.cache.outlook import Outlook
from mirror.cache.pullthrough import PullThrough
from mirror.confignames import OPEN, default_url
from mirror.configproxy import CALLER, Proxy
from mirror.configproxy import Upstream as Entry
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.reference import Image
from mirror.upstream.breakers import OWN
from mirror.upstream.client import Client
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.lookups import Lookups
from mirror.upstream.routes import Names, Routes
from mirror.upstream.settings import Settings
from mirror.upstream.traffic import Traffic
from mirror.upstream.upstreams import Upstreams

OTHER = "other"  # registries that nobody configured by name, together
WARNINGS_MAX = 20  # upstreams that are named in one answer


def routes(proxy: Proxy) -> Routes:
    """Who is called what."""
    default = _names(proxy.namespace, proxy)
    others = [_names(namespace, entry) for namespace, entry in proxy.upstreams.items()]
    return Routes(default, others, strict=proxy.strict)


def label(names: Routes, namespace: str) -> str:
    """What a namespace counts as in the metrics: its entry's, for clients may name any in the open mode."""
    try:
        entry = names.entry(namespace)
    except KeyError:
        return OTHER
    return OTHER if entry == OPEN else entry


def upstreams(proxy: Proxy, names: Routes, traffic: Mapping[str, Traffic]) -> Upstreams:
    """All of them behind one face, each made when it is first asked. `traffic`: by `label`."""
    lookups = {namespace: Lookups() for namespace in (proxy.namespace, *proxy.upstreams)}

    def open_(namespace: str) -> Endpoints:
        key = names.entry(namespace)
        entry = _entry(proxy, key)
        urls = entry.remoteurls if entry.remoteurl else (default_url(namespace),)
        settings = [_settings(proxy, entry, url, namespace, is_open=key == OPEN) for url in urls]
        counted = traffic[label(names, namespace)]
        clients = [Client(each, lookups=lookups[key], traffic=counted) for each in settings]
        return Endpoints(clients, namespace)

    return Upstreams(names, open_)


async def explain(
    image: str,
    proxy: Proxy,
    names: Routes,
    registries: Upstreams,
    cache: PullThrough,
    outlook: Outlook,
    forbids: Callable[[Repository], str | None],
) -> dict[str, Any]:
    """What is known of an image as people type it. Raises ImageError, and RegistryError for no route.

    `forbids`: the key of the configuration by which a repository is given to nobody.
    """
    meant = Image.parse(image)
    route = names.route(meant.host, "", meant.repository)
    known = await cache.explain(route.qualified, meant.reference)
    entry = _entry(proxy, route.entry)
    if key := forbids(route.qualified):
        known["next_pull"] = f"is refused (403): {key} forbids it"
    elif entry.rights == CALLER:
        may = "asks the registry whether the client's own login may have it (one HEAD a minute)"
        known["next_pull"] = f"{may}; if so, it {known['next_pull']}"
    kept = Digest.parse(known["reference"]["digest"]) if known["reference"]["kept"] else None
    return {
        "image": image,
        "namespace": route.namespace,
        "repository": str(route.qualified),
        "upstream_repository": str(route.repository),
        # As if a client had sent it as `ns`; here it was typed.
        "routed_by": route.routed_by.replace("?ns=", "the image's host ", 1),
        "login": login(entry),
        **registries.describe(route.qualified, time.monotonic()),
        **known,
        **await outlook.explain(route.qualified, meant.reference, kept),
    }


def traffic(proxy: Proxy, names: Routes) -> dict[str, Traffic]:
    """Where what goes to each upstream is counted, by `label`."""
    return {name: Traffic() for name in (*map(partial(label, names), _namespaces(proxy)), OTHER)}


def warnings(registries: Upstreams, names: Routes) -> list[str]:
    """Which upstreams cannot be asked now, or failed when they were last asked. Anybody may see it.

    Those that nobody configured by name are a number: which registries other clients use is not everybody's
    business, and somebody's inventions are nobody's.
    """
    found = []
    unnamed = Counter[str]()  # by their entries
    for namespace, described in registries.described(time.monotonic()):
        endpoints = described["endpoints"]
        away = [endpoint for endpoint in endpoints if endpoint["state"] != "ok"]
        if (entry := names.entry(namespace)) != namespace:
            unnamed[entry] += bool(away)
        elif away and len(away) == len(endpoints):
            found.append(f"{namespace} cannot be asked now ({away[0]['state']})")
        elif away:
            found.append(f"{namespace}: {len(away)} of {len(endpoints)} addresses cannot be asked now")
        else:
            found += _failing(namespace, endpoints)
    found += [f"{count} of {entry!r} cannot be asked now" for entry, count in unnamed.items() if count]
    more = len(found) - WARNINGS_MAX
    return [*found[:WARNINGS_MAX], f"and {more} more"] if more > 0 else found


def _failing(namespace: str, endpoints: list[dict[str, Any]]) -> list[str]:
    """Of an upstream that is asked still: that its last requests failed. No cause: those hold addresses."""
    last = [
        (each["failed"]["ago"], each["failures"])
        for endpoint in endpoints
        for each in endpoint["breakers"]
        if "failed" in each and each["role"] in OWN
    ]
    if not last:
        return []
    since, failures = min(last)
    row = f" ({failures} in a row)" if failures > 1 else ""
    where = "" if len(endpoints) == 1 else " at one of its addresses"
    return [f"{namespace}: the last request failed{where} {ago(since)} ago{row}"]


def _namespaces(proxy: Proxy) -> list[str]:
    return [proxy.namespace, *(name for name in proxy.upstreams if name != OPEN)]


def _entry(proxy: Proxy, key: str) -> Entry:
    """What is configured under this namespace, or pattern."""
    return proxy if key == proxy.namespace else proxy.upstreams[key]


def login(entry: Entry) -> str:
    """How the upstream is logged in to, for the log: the user's name, or the kind of source."""
    if entry.exec is not None:
        return "credential helper"
    if entry.dockerconfig is not None:
        return "docker's config.json"
    return entry.username or ("identity token" if entry.identitytoken else "none")


def _names(namespace: str, entry: Entry) -> Names:
    is_name = "*" not in namespace
    aliases = entry.names(namespace)[1:] if is_name else ()
    return Names(namespace, aliases, hub=is_name and entry.is_hub(namespace))


def _settings(proxy: Proxy, entry: Entry, url: str, namespace: str, *, is_open: bool) -> Settings:
    return Settings(
        remoteurl=url,
        username=entry.username,
        password=_reveal(entry.password),
        identity_token=_reveal(entry.identitytoken),
        helper=entry.exec.command if entry.exec else "",
        helper_lifetime=entry.exec.lifetime if entry.exec else None,
        docker_config=entry.dockerconfig,
        realms=entry.realms,
        ca_file=entry.ca,
        client_cert=entry.clientcert,
        client_key=entry.clientkey,
        public_only=is_open,
        insecure=entry.insecure,
        headers=entry.headers,
        http_proxy=entry.httpproxy,
        connect=entry.timeouts.connect,
        firstbyte=entry.timeouts.firstbyte,
        stall=entry.timeouts.stall,
        retries=entry.retries,
        connections=entry.connections,
        user_agent=f"mirror/{__version__}",
        namespace=namespace,
        reserve=proxy.quota.reserve,
    )


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
