"""Which source of credentials an upstream's settings mean."""

from __future__ import annotations

import shlex

from mirror.upstream.credentials import Credentials, Fixed, Source
from mirror.upstream.dockerlogin import DockerLogin
from mirror.upstream.helpers import Helper
from mirror.upstream.settings import Settings


def source_of(settings: Settings) -> Source:
    """docker's config.json if there is one, else a helper, else what the settings say themselves."""
    if settings.docker_config is not None:
        return DockerLogin(settings.docker_config)
    if settings.helper:
        return Helper(tuple(shlex.split(settings.helper)), settings.helper_lifetime)
    return Fixed(Credentials(settings.username, settings.password, settings.identity_token))
