"""The list of metrics: as documented, as used in the examples, and as Prometheus reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mirror import exposition
from mirror.metrics import FAMILIES, KNOWN
from mirror.tally import Distribution, Distributions, Tally

TOP = Path(__file__).resolve().parents[1]
EXAMPLES = TOP / "examples" / "prometheus"
SUFFIXES = ("_bucket", "_sum", "_count")


def test_the_documented_list_is_the_list() -> None:
    lines = (TOP / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if re.match(r"\| `(registry|mirror)_", line)]
    assert rows == [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels) or '-'} "
        f"| {family.text} |"
        for family in FAMILIES
    ]
    assert len(KNOWN) == len(FAMILIES) > 40


def names_in(text: str) -> set[str]:
    """The metrics that an expression is about."""
    found = set(re.findall(r"\b(?:mirror|registry)_\w+", text))
    return {
        next((name.removesuffix(end) for end in SUFFIXES if name.removesuffix(end) in KNOWN), name)
        for name in found
    }


def test_the_examples_are_about_metrics_that_there_are() -> None:
    alerts = yaml.safe_load((EXAMPLES / "alerts.yml").read_text(encoding="utf-8"))
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text(encoding="utf-8"))
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in expressions:
        assert names_in(expression), expression
        assert names_in(expression) <= KNOWN, expression
    assert {"mirror_storage_unusable == 1", "mirror_health_check_failing == 1"} <= set(expressions)
    scrape = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text(encoding="utf-8"))
    assert scrape["rule_files"] == ["alerts.yml"]


def test_what_is_not_in_the_list_is_a_defect() -> None:
    with pytest.raises(ValueError, match="mirror_unheard_of"):
        exposition.families({"mirror_unheard_of": 1})


def test_values_are_read_back_as_they_were() -> None:
    seconds = Distributions((0.5, 1.0))
    seconds.observe(("blob", "get"), 0.5)
    seconds.observe(("blob", "get"), 0.7, count=3)
    seconds.observe(("blob", "get"), 9.0)
    requests = Tally()
    requests.add("blob", "200", "get", count=5)
    odd = Tally.of({('a "check"\nof\\ours',): 1})
    text = exposition.render(
        exposition.families(
            {
                "registry_http_request_duration_seconds": seconds,
                "registry_http_requests_total": requests,
                "mirror_health_check_failing": odd,
                "mirror_fills_running": 7,
            }
        )
    ).decode()
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["registry_http_requests_total", "200", "blob", "get"] == 5
    assert found["mirror_health_check_failing", 'a "check"\nof\\ours'] == 1
    assert found["mirror_fills_running",] == 7
    name = "registry_http_request_duration_seconds"
    assert found[f"{name}_bucket", "0.5", "blob", "get"] == 1
    assert found[f"{name}_bucket", "1.0", "blob", "get"] == 4
    assert found[f"{name}_bucket", "+Inf", "blob", "get"] == 5
    assert found[f"{name}_count", "blob", "get"] == 5
    assert found[f"{name}_sum", "blob", "get"] == pytest.approx(0.5 + 3 * 0.7 + 9.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), max_size=30))
def test_a_distribution_has_each_value_at_most_its_bounds(values: list[tuple[float, int]]) -> None:
    made = Distribution((1.0, 10.0, 50.0))
    for value, count in values:
        made.observe(value, count)
    every = [value for value, count in values for _ in range(count)]
    assert made.cumulated() == [
        (bound, sum(value <= bound for value in every)) for bound in (1.0, 10.0, 50.0, float("inf"))
    ]
    assert made.sum == pytest.approx(sum(every))
