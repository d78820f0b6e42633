"""The parts of the rate-distortion benchmark that need no real table: limit, stored points, Markdown."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks.rate_distortion_results import Point, Results, gaussian_limit, markdown

POINT = Point("svd_fp16", 25.0, 1000, 25.6, 0.25, 0.875, 0.75, None, 1.5, {"rank": 3})
METHODS = {"svd_fp16": "SVD, fp16", "default": "ours"}


@pytest.fixture
def results() -> Results:
    limit = [
        {"ratio": ratio, "bits": 256 / ratio, "relative_error": ratio / 200} for ratio in (25.0, 60.0, 103.0, 200.0)
    ]
    return Results("some words", (100, 64), limit=limit, points=[POINT])


def white_table(mean: float) -> torch.Tensor:
    """256 rows whose covariance is the identity in 8 dimensions, and a mean."""
    signs = torch.tensor([[1.0 if row >> column & 1 else -1.0 for column in range(8)] for row in range(256)])
    return signs + mean


def test_limit_of_a_white_source_is_a_quarter_per_bit_and_dimension() -> None:
    # 4 * 8 bytes a row; at ratio 32 one byte, 1 bit per dimension, at 16 twice that
    one, two = gaussian_limit(white_table(0.0), [32.0, 16.0])
    assert one == {"ratio": 32.0, "bits": 8.0, "relative_error": pytest.approx(0.25)}
    assert two["relative_error"] == pytest.approx(1 / 16)


def test_limit_takes_the_mean_as_known() -> None:
    # |e|^2 is 8 of variance and 8 * 4 of the mean
    (limit,) = gaussian_limit(white_table(2.0), [32.0])
    assert limit["relative_error"] == pytest.approx(0.25 / 5)


def test_limit_gives_no_bits_to_weak_directions() -> None:
    table = white_table(0.0)
    table[:, 4:] *= 1e-3
    (limit,) = gaussian_limit(table, [32.0])
    assert limit["relative_error"] == pytest.approx((4 * 4**-2 + 4e-6) / (4 + 4e-6))


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    results.put(Point("int8", 25.0, left_out="needs more"))
    path = tmp_path / "new" / "words.json"
    results.write(path)
    assert Results.read(path) == results
    assert json.loads(path.read_text())["points"][1]["left_out"] == "needs more"
    assert [entry.name for entry in path.parent.iterdir()] == ["words.json"]


def test_a_point_replaces_the_older_one_of_its_method_and_ratio(results: Results) -> None:
    newer = replace(POINT, relative_error=0.2)
    results.put(newer)
    results.put(replace(POINT, asked=10.0, ratio=10.1))
    assert results.find("svd_fp16", 25.0) == newer
    assert results.find("default", 25.0) is None
    assert [point.ratio for point in results.curve("svd_fp16")] == [10.1, 25.6]


def test_curve_skips_what_was_left_out(results: Results) -> None:
    results.put(Point("svd_fp16", 200.0, left_out="no rank"))
    assert results.curve("svd_fp16") == [POINT]


def test_markdown_orders_by_error_and_tells_bytes_and_reasons(results: Results) -> None:
    results.put(Point("default", 25.0, 990, 25.9, 0.2, 0.9, 0.8))
    results.put(Point("default", 200.0, left_out="leaves 2 bytes"))
    results.put(Point("default", 103.0, left_out="leaves 4 bytes"))
    assert markdown(results, METHODS).splitlines() == [
        "some words, 100 x 64, 25600 bytes in float32.",
        "",
        "| ratio asked | method | stored bytes | ratio | relative error | cosine mean | cosine p01 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 25 | Gaussian limit |  |  | 0.1250 |  |  |",
        "| 25 | ours | 990 | 25.90 | 0.2000 | 0.9000 | 0.8000 |",
        "| 25 | SVD, fp16 | 1000 | 25.60 | 0.2500 | 0.8750 | 0.7500 |",
        "| 103 | Gaussian limit |  |  | 0.5150 |  |  |",
        "| 200 | Gaussian limit |  |  | 1.0000 |  |  |",
        "",
        "Left out:",
        "",
        "- ours at 103, 200: leaves 4 bytes",
    ]


def test_markdown_has_a_column_for_a_measured_task(results: Results) -> None:
    results.task, results.dense_score = "STS-B Spearman over dense", 0.8
    results.points = [replace(POINT, task=0.9), Point("default", 25.0, 990, 25.9, math.inf)]
    lines = markdown(results, METHODS).splitlines()
    assert lines[0].endswith(" Dense STS-B Spearman: 0.8000.")
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["STS-B Spearman over dense", "---", "", "0.9000", ""]
