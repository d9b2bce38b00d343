"""What would help when a bucket of S3's cannot be looked at."""

from __future__ import annotations

from mirror.drivers.advice import Fault, Place, fault_of, keys_of
from mirror.drivers.base import Advice, DriverError
from mirror.drivers.s3answers import NO_S3
from mirror.drivers.s3settings import S3Settings

CODES = {  # Amazon's, which others use as well
    "InvalidAccessKeyId": Fault.LOGIN,
    "SignatureDoesNotMatch": Fault.SIGNATURE,
    "AccessDenied": Fault.RIGHT,
    "AllAccessDisabled": Fault.RIGHT,
    "NoSuchBucket": Fault.BUCKET,
    "InvalidBucketName": Fault.BUCKET,
    "AuthorizationHeaderMalformed": Fault.REGION,  # which names the region that it wants
    "IllegalLocationConstraintException": Fault.REGION,
    "PermanentRedirect": Fault.REGION,
    "301": Fault.REGION,
    "RequestTimeTooSkewed": Fault.CLOCK,
    "ExpiredToken": Fault.ENDED,
    "InvalidToken": Fault.ENDED,
    NO_S3: Fault.OTHER,
}
# What the settings are called.
KEYS = {
    "s3": keys_of(
        "s3",
        login="accesskey",
        signature="secretkey",
        bucket="bucket",
        region="region",
        endpoint="regionendpoint",
    ),
    "oss": keys_of(
        "oss",
        login="accesskeyid",
        signature="accesskeysecret",
        bucket="bucket",
        region="region",
        endpoint="endpoint",
    ),
    "swift": keys_of(
        "swift",
        login="username",
        signature="username password",
        bucket="container",
        region="s3region",
        endpoint="authurl s3endpoint",
    ),
}


SECURE = {  # where TLS is asked for
    "s3": "http:// in storage.s3.regionendpoint, or set storage.s3.secure: false",
    "oss": "http:// in storage.oss.endpoint, or set storage.oss.secure: false",
    "swift": "http:// in storage.swift.authurl or storage.swift.s3endpoint",
}


def advice(settings: S3Settings, error: DriverError) -> Advice:
    """As Remote.advice."""
    keys = {**KEYS[settings.section], "plain": SECURE[settings.section]}
    place = Place(f"bucket {settings.bucket}", settings.endpoint or _nowhere(settings), keys)
    return place.advice(fault_of(error, CODES))


def region_key(settings: S3Settings) -> str:
    """What the region's setting is called."""
    return KEYS[settings.section]["region"]


def _nowhere(settings: S3Settings) -> str:
    """Without an endpoint."""
    if settings.login is not None:
        return "the endpoint that Keystone names"
    return f"Amazon S3, region {settings.region or 'of the AWS configuration'}"
