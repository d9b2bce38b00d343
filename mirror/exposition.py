"""The numbers in Prometheus' text form. Imported where somebody is to scrape: its library takes 30 ms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mirror.metrics import FAMILIES, KNOWN, Family, Values
from mirror.tally import Distribution, Distributions, Labels, Tally


def families(values: Mapping[str, Values]) -> list[Metric]:
    """The metrics with these values, which must be those of FAMILIES; what is not known now has none."""
    if not values.keys() <= KNOWN:
        raise ValueError(f"not in the list of metrics: {sorted(values.keys() - KNOWN)}")
    return [_metric(family, values[family.name]) for family in FAMILIES if family.name in values]


def render(metrics: Iterable[Metric]) -> bytes:
    """The text that Prometheus reads, with those of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(metrics))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics

    def describe(self) -> Iterator[Metric]:
        yield from ()


def _metric(family: Family, values: Values) -> Metric:
    if family.kind == "histogram":
        return _histogram(family, values)
    made: CounterMetricFamily | GaugeMetricFamily
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    made = kind(family.name, family.text, labels=family.labels)
    for labels, value in _counts(values).items():
        made.add_metric(labels, value)
    return made


def _counts(values: Values) -> Mapping[Labels, float]:
    if isinstance(values, Tally):
        return values.values
    assert isinstance(values, int | float)
    return {(): values}


def _histogram(family: Family, values: Values) -> Metric:
    assert isinstance(values, Distribution | Distributions)
    made = HistogramMetricFamily(family.name, family.text, labels=family.labels)
    found = {(): values} if isinstance(values, Distribution) else values.values
    for labels, distribution in found.items():
        buckets = [(_bound(bound), float(count)) for bound, count in distribution.cumulated()]
        made.add_metric(labels, buckets, distribution.sum)
    return made


def _bound(bound: float) -> str:
    """As Go's clients write one: `0.005`, `1024.0`, `+Inf`."""
    return "+Inf" if bound == float("inf") else str(bound)
