"""The side-by-side measurement in small: that it works, not how fast anything is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.figures import DIRECTLY, Figure, Line, Results, Row
from tests.bench.peers import KINDS, MIRROR, STATIC, Kind, Peer
from tests.bench.reading import WrongError, check
from tests.bench.stage import QUICK, Stage
from tests.support.procs import Workspace
from tests.support.programs import require

SMALL = dataclasses.replace(QUICK, large=2 << 20, fill=8 << 20, readers=4, reading=0.5, crowd=3, many=40)
FEW = ["mirror", "nginx-static"]


def kinds(*keys: str) -> list[Kind]:
    return [kind for kind in KINDS if kind.key in keys]


def test_every_row_gives_a_figure(tmp_path: Path) -> None:
    require("docker-registry", "nginx", "wrk")
    slow = {"slow", "eviction", "kept", "tls", "digest", "blob", "memory-cold"}  # some seconds each
    rows = [row for row in bench.ROWS if row.key not in slow]
    with Workspace(tmp_path) as space:
        results = bench.measure(space, SMALL, kinds(*FEW), rows, runs=1)
        text = bench.report(results, rows, kinds(*FEW), space.root, runs=1)
    for row in rows:
        value = results.median(row.lines[0].key, DIRECTLY if "floor" in row.key else MIRROR)
        assert isinstance(value, float), f"{row.key}: {value}"
        assert value > 0
    assert results.median("crowd-bytes", MIRROR) == pytest.approx(1, abs=0.01)
    assert results.median("ranges-status", MIRROR) == "206"
    assert isinstance(results.median("cold-speed", DIRECTLY), float)
    assert "| peak memory" in text
    assert "mirror ÷ docker-registry" in text
    assert isinstance(results.median("tag-rate", STATIC), float)


def test_a_wrong_answer_stands_in_the_table_and_no_number(tmp_path: Path) -> None:
    require("docker-registry")

    def measure(stage: Stage, peer: Peer) -> list[Figure]:
        image = stage.small
        check(peer.url, image.layer, image.layers[0].size, str(image.manifest.digest))
        return [Figure("row", 1.0)]

    row = Row("row", measure, [Line("row", "a row")])
    with Workspace(tmp_path) as space:
        results = bench.measure(space, SMALL, kinds("mirror"), [row], runs=3)
        text = bench.report(results, [row], kinds("mirror"), space.root, runs=3)
    assert "| a row |  | wrong: 200, 6144 bytes of 6144, another digest |" in text
    assert len(results.figures["row", MIRROR]) == 1, "what is wrong is not measured again"


def test_the_median_of_the_runs_is_told() -> None:
    results, line = Results(), Line("row", "a row", digits=1)
    for value in (1000.0, 3000.25, 2000.0):
        results.add(Figure("row", value), MIRROR)
        results.add(Figure("row", value / 100), "docker-registry")
    assert results.cell(line, MIRROR) == "2,000.0"
    assert results.against(line) == "100"
    assert results.cell(line, "nobody") == ""


@pytest.mark.parametrize(
    ("runs", "limits", "text"),
    [
        (1, [3, 3], "One run of each, by "),
        (3, [1, 1], "One run of each, by "),
        (3, [3, 3], "Medians of 3 runs, by "),
        (5, [9, 9], "Medians of 5 runs, by "),
        (3, [3, 1], "Medians of up to 3 runs, by "),
        (2, [3, 1], "Medians of up to 2 runs, by "),
    ],
)
def test_the_report_says_of_how_many_runs_it_is(
    tmp_path: Path, runs: int, limits: list[int], text: str
) -> None:
    rows = [Row(f"row{limit}", lambda *_: [], [], runs=limit) for limit in limits]
    assert text in bench.report(Results(), rows, [], tmp_path, runs)


def test_a_body_of_another_size_is_no_right_answer(tmp_path: Path) -> None:
    require("docker-registry")
    with Workspace(tmp_path) as space:
        stage = Stage(space, SMALL, [])
        image = stage.small
        with image.layers[0].file.open("ab") as file:
            file.write(b"one more")
        with pytest.raises(WrongError, match="6152 bytes of 6144"):
            check(stage.direct.url, image.layer, image.layers[0].size, str(image.layers[0].digest))
