"""The clients of aiobotocore for one bucket: how they are told to behave, and what is changed in them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ssl
from dataclasses import replace
from functools import cache
from typing import Any

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.loaders import create_loader

from mirror.drivers.s3advice import region_key
from mirror.drivers.s3answers import check_answer
from mirror.drivers.s3settings import Keys, S3Settings

CONNECT = 3.0  # seconds
SILENCE = 15.0  # seconds without a byte
ATTEMPTS = 3  # botocore's: after a break, a time-out, 5xx or a throttle, with growing waits between
REGION = "x-amz-bucket-region"  # an answer's header
NO_REGION = "us-east-1"  # what other servers than Amazon's take where none is given

log = structlog.get_logger()


@cache
def _loader() -> Any:
    """What reads the models, and keeps them: once in a process, whatever the number of sessions."""
    return create_loader()


class S3Session:
    """`settings` as they are known now; `region` of the bucket, where it is in another one than we were told.

    Owned by whoever opens and closes the clients.
    """

    def __init__(self, settings: S3Settings) -> None:
        """Blocks: reads the service's model from the disk, 0.1 s. Raises ValueError: AWS' files are wrong."""
        self.settings = settings
        self.region = ""
        self._session: AioSession = get_session()
        self._session.register_component("data_loader", _loader())
        try:
            if not settings.access_key and settings.login is None:
                self._session.get_component("credential_provider")  # made here, not on the loop
            self._session.warm_up_loader_caches("s3")
        except boto.BotoCoreError as error:  # ~/.aws/config, or a profile that it has not
            raise ValueError(str(error)) from error
        self._clients = contextlib.AsyncExitStack()

    def take(self, keys: Keys) -> None:
        """What clients are made with from now on."""
        self.settings = replace(
            self.settings,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            endpoint=keys.endpoint,
        )

    async def credentials(self) -> Any:
        """Of the AWS chain, as botocore has them. Raises NoCredentialsError."""
        found: Any = await self._session.get_credentials()
        if found is None:
            raise boto.NoCredentialsError
        return found

    async def make(self, connections: int, endpoint: str = "", region: str = "") -> Any:
        """A client of its own connections; those of readers must not wait for one another's."""
        settings = self.settings
        config = AioConfig(
            connect_timeout=CONNECT,
            read_timeout=SILENCE,
            max_pool_connections=connections,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            signature_version="s3v4",
            # Each upload has its MD5, which every server checks, also those that know no other checksum.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            use_dualstack_endpoint=settings.dual_stack or None,
            use_fips_endpoint=settings.fips or None,
            user_agent_extra=settings.user_agent or None,
            http_session_cls=TrustingSession,
            s3={
                "addressing_style": _style(settings),
                "use_accelerate_endpoint": settings.accelerate,
                # Hashing each part once more, on the event loop, would take longer than to send it.
                "payload_signing_enabled": False,
            },
        )
        client = await self._clients.enter_async_context(
            self._session.create_client(
                "s3",
                region_name=region or settings.region or (NO_REGION if settings.endpoint else None),
                endpoint_url=endpoint or settings.endpoint or None,
                use_ssl=settings.secure,
                # Without TLS there is nothing to verify, and reading the system's CAs takes 30 ms.
                verify=None if settings.verify and settings.is_tls else False,
                aws_access_key_id=settings.access_key or None,
                aws_secret_access_key=settings.secret_key or None,
                aws_session_token=settings.session_token or None,
                config=config,
            )
        )
        client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
        client.meta.events.register("before-sign.s3", self._signed)
        # NB: by this name it comes before botocore's own, which makes 500 of a page.
        client.meta.events.register("before-parse.*.*", check_answer)
        client.meta.events.register_first("needs-retry.s3.HeadBucket", _end_redirects)
        return client

    def _signed(self, request: Any, **_: Any) -> None:
        """A request is about to be sent; learn the bucket's region where that is another than we were told.

        NB: botocore asks there from then on, but signs URLs for the region that it was made with.
        """
        context = request.context
        if self.region or not context.get("s3_redirect", {}).get("redirected"):
            return
        region = str(context.get("signing", {}).get("region") or "")
        if region and region != context.get("client_region"):
            self.region = region
            settings = self.settings
            log.warning("storage.region", bucket=settings.bucket, region=region, see=region_key(settings))

    async def close(self) -> None:
        """Close all clients. More can be made."""
        await self._clients.aclose()


class TrustingSession(AIOHTTPSession):  # type: ignore[misc]  # it has no types
    """aiobotocore's, which alone would believe Mozilla's list and nobody else.

    registry:2 believes what its machine does, such as a company's own authority.
    """

    def _get_ssl_context(self) -> ssl.SSLContext:
        """In a thread, where certificates are looked at."""
        context: ssl.SSLContext = super()._get_ssl_context()
        if self._verify is True:  # and not a file that alone is believed
            context.load_default_certs()
        return context


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Old servers take no batch of deletions without a Content-MD5; botocore gives a newer checksum only."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")


def _end_redirects(request_dict: dict[str, Any], response: Any, **_: Any) -> None:
    """A HEAD of the bucket that is redirected, too, and names no region, leads nowhere.

    NB: botocore sends it to learn where a redirected request belongs, and without this another for that one,
    until Python's stack ends: a hundred requests for each of ours.
    """
    if response is not None and REGION not in response[1]["ResponseMetadata"]["HTTPHeaders"]:
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _style(settings: S3Settings) -> str:
    """Where the bucket stands in URLs. NB: with an endpoint, "auto" is in the path."""
    if settings.path_style:
        return "path"
    return "virtual" if settings.endpoint else "auto"
