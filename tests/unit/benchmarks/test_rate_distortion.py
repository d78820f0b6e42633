"""Which points the rate-distortion benchmark makes, and what they are called."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks.rate_distortion import SHOWN, make_point, run, title_of, too_slow
from tests.benchmarks.rate_distortion_results import Point, Results
from tests.benchmarks.real_tables import RealTable

POINT = Point("opq_fp16", 50.0, 1000, 50.5, 0.4, 0.8, 0.7, seconds=100.0)


@pytest.fixture
def table() -> RealTable:
    noise = torch.Generator().manual_seed(0)
    return RealTable("words", "some words", torch.randn(400, 16, generator=noise))


def test_titles_of_methods_differ() -> None:
    titles = [title_of(method) for method in SHOWN]
    assert len(set(titles)) == len(SHOWN)
    assert (title_of("svd_fp16"), title_of("opq_fp16"), title_of("opq_fp32")) == ("SVD, fp16", "OPQ", "OPQ, fp32")


def test_points_expected_over_the_limit_are_left_out_downwards() -> None:
    results = Results("some words", (100, 64), points=[POINT])
    assert too_slow(results, "opq_fp16", 25.0, limit=200.0) is None
    left_out = too_slow(results, "opq_fp16", 25.0, limit=199.0)
    reason = "expected to take over 200 s, more than --limit 199: 100 s at 50"
    assert left_out == Point("opq_fp16", 25.0, left_out=reason)
    results.put(Point("opq_fp16", 25.0, left_out=reason))
    assert too_slow(results, "opq_fp16", 10.0, limit=199.0) is not None
    assert too_slow(results, "opq_fp16", 103.0, limit=1.0) is None


def test_point_counts_real_bytes_and_tells_why_a_ratio_cannot_be_met(table: RealTable) -> None:
    point = make_point(table, "int4", 5.0, None, None, None)
    assert point.stored_bytes == 400 * 16 // 2 + 4 * 400
    assert point.ratio == pytest.approx(4 * 400 * 16 / point.stored_bytes)
    assert "ask for at most 5.33" in str(make_point(table, "int4", 10.0, None, None, None).left_out)


def test_run_makes_only_what_is_missing(table: RealTable, tmp_path: Path) -> None:
    known = replace(POINT, method="svd_fp16", asked=4.0, relative_error=0.123)
    results = Results("some words", (400, 16), points=[known])
    args = Namespace(data=None, calibration=None, ratios=[4.0, 2.0], methods=["svd_fp16"], force=False, limit=900.0)
    run(args, table, results, tmp_path / "words.json")
    assert results.find("svd_fp16", 4.0) == known
    made = Results.read(tmp_path / "words.json").find("svd_fp16", 2.0)
    assert made is not None
    assert (made.parameters, made.stored_bytes) == ({"rank": 15}, 15 * 416 * 2)
    args.force = True
    run(args, table, results, tmp_path / "words.json")
    again = results.find("svd_fp16", 4.0)
    assert again is not None
    assert again.parameters == {"rank": 7}
