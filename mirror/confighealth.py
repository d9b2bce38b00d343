"""The section `health`: checks of which each makes the whole mirror answer 503 while it fails."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from mirror.confighosts import AddressValue, RequiredUrl
from mirror.configsections import Go, Section, SendableHeaders
from mirror.configvalues import Count, Duration, Flag, PathValue, at_most, between, positive_or

CHECKS_MAX = 100  # of one kind; each is a task, and a label of the metrics
DEFAULT_INTERVAL = 10.0  # seconds, the registry's; also for 0

_Interval = Annotated[Duration, AfterValidator(positive_or(DEFAULT_INTERVAL))]
_Timeout = Annotated[Duration, AfterValidator(positive_or(0.0))]
_Few = AfterValidator(at_most(CHECKS_MAX, "checks"))


class DriverCheck(Section):
    enabled: Flag = False
    interval: _Interval = DEFAULT_INTERVAL
    threshold: Count = 0


class FileCheck(Section):
    interval: _Interval = DEFAULT_INTERVAL
    file: PathValue
    threshold: Count = 0


class HttpCheck(Section):
    timeout: _Timeout = 0.0
    statuscode: Annotated[Count, AfterValidator(between(100, 599))] = 200
    interval: _Interval = DEFAULT_INTERVAL
    uri: RequiredUrl
    headers: SendableHeaders = Field(default_factory=dict)
    threshold: Count = 0


class TcpCheck(Section):
    timeout: _Timeout = 0.0
    interval: _Interval = DEFAULT_INTERVAL
    addr: AddressValue
    threshold: Count = 0


class Health(Section):
    """`threshold` 0 is as 1: the first failure counts. `timeout` 0 is the mirror's own limit."""

    storagedriver: DriverCheck = DriverCheck()
    file: Annotated[tuple[FileCheck, ...], Go("FILECHECKERS"), _Few] = ()
    http: Annotated[tuple[HttpCheck, ...], Go("HTTPCHECKERS"), _Few] = ()
    tcp: Annotated[tuple[TcpCheck, ...], Go("TCPCHECKERS"), _Few] = ()
