"""Which repository a request means, and what to call it towards people.

Clients name an upstream by `?ns=`, by the host that they ask, or by the first part of the path; the registry
behind us knows one name for each repository, which is `Settings.locate`'s to find. What clients see stays in
their own words.
"""

from __future__ import annotations

from aiohttp import web

from mirror.oci import request as oci
from mirror.oci import target
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.server.exchange import current
from mirror.server.settings import Context, Settings

# The endpoints that belong to one repository.
Named = oci.ManifestEndpoint | oci.BlobEndpoint | oci.Tags | oci.Referrers | oci.Uploads | oci.Upload


def located(settings: Settings, namespace: str | None, repository: Repository) -> Repository:
    """The name by which the registry knows it, noted for the log. Raises RegistryError NAME_UNKNOWN."""
    exchange = current()
    # NB: not `request.host`, which is this machine's name where a client sent none.
    found = settings.locate(namespace, exchange.host, repository)
    exchange.located = found
    exchange.provenance.namespace = settings.namespace_of(found)
    return found


def place(context: Context, request: web.Request, repository: Repository) -> str:
    """Where people find the repository that a refused request names: `quay.io/org/app`; "" if unknown."""
    namespace = target.field(request.rel_url.raw_query_string, "ns") or None
    try:
        found = located(context.settings, namespace, repository)
    except RegistryError:
        return ""
    upstream = current().provenance.namespace
    if not upstream:
        return ""
    # Names of all but the default upstream begin with its own, in which `_` stands for a port's colon.
    return f"{upstream}/{found.name.removeprefix(upstream.replace(':', '_') + '/')}"
