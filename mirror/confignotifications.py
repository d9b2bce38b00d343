"""The section `notifications`: who is told of pulls."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from mirror.confighosts import Url
from mirror.configsections import Go, Section, SendableHeaders
from mirror.configvalues import Duration, Flag, Integer, Text, at_most, positive_or

ENDPOINTS_MAX = 32  # each has a queue of its own
DEFAULT_THRESHOLD = 10  # the registry's; also for 0 and less, as the two below
DEFAULT_SECONDS = 1.0


class Ignore(Section):
    mediatypes: tuple[Text, ...] = ()
    actions: tuple[Text, ...] = ()


class Endpoint(Section):
    """`url` is empty only where the endpoint is disabled."""

    name: Text = ""
    disabled: Flag = False
    url: Url = ""
    headers: SendableHeaders = Field(default_factory=dict)
    timeout: Annotated[Duration, AfterValidator(positive_or(DEFAULT_SECONDS))] = DEFAULT_SECONDS
    threshold: Annotated[Integer, AfterValidator(lambda n: n if n > 0 else DEFAULT_THRESHOLD)] = (
        DEFAULT_THRESHOLD
    )
    backoff: Annotated[Duration, AfterValidator(positive_or(DEFAULT_SECONDS))] = DEFAULT_SECONDS
    ignoredmediatypes: tuple[Text, ...] = ()
    ignore: Ignore = Ignore()

    @model_validator(mode="after")
    def _with_url(self) -> Self:
        if not self.disabled and not self.url:
            raise ValueError("one with url, such as url: https://events.example/registry, or disabled: true")
        return self


class Events(Section):
    includereferences: Flag = False


class Notifications(Section):
    events: Annotated[Events, Go("EVENTCONFIG")] = Events()
    endpoints: Annotated[tuple[Endpoint, ...], AfterValidator(at_most(ENDPOINTS_MAX, "endpoints"))] = ()
