"""Means, spreads and standard errors by hand."""

import math

import pytest

from transformers_lighttoken.evaluation.fine_tuning.summary import Figure, difference, task_results, task_score
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS


def record(pearson, spearman, error=0.02):
    metrics = {"pearson": pearson, "spearman": spearman}
    return {"metrics": metrics, "row_standard_errors": {"pearson": error, "spearman": error / 2}}


def test_several_runs():
    figure = Figure.of([0.8, 0.9, 0.7], row_error=0.5)
    assert figure.value == pytest.approx(0.8)
    assert figure.std == pytest.approx(0.1)
    assert figure.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert figure.error_over == "runs"


def test_one_run_has_the_error_over_the_rows():
    assert Figure.of([0.8], 0.02) == Figure(0.8, None, 0.02, "rows", (0.8,))
    assert Figure.of([0.8], math.nan).standard_error is None


def test_a_difference_within_its_standard_error_is_a_tie():
    dense = Figure(0.80, None, 0.03, "runs", (0.8,))
    close = difference(Figure(0.76, None, 0.04, "runs", ()), dense)
    assert close["tie"] is True
    assert close["difference_standard_error"] == pytest.approx(0.05)
    assert close["share"] == pytest.approx(0.95)
    assert difference(Figure(0.74, None, 0.04, "runs", ()), dense)["tie"] is False
    assert "tie" not in difference(Figure(0.7, None, None, "rows", ()), dense)


def test_the_score_is_the_mean_of_the_metrics():
    score = task_score([record(0.8, 0.6), record(0.9, 0.7)])
    assert score.values == pytest.approx((0.7, 0.8))
    assert task_score([record(0.8, 0.6)]).standard_error == 0.02


def test_results_name_the_hub_only_for_the_hubs_rows():
    ours, dense = [record(0.8, 0.6), record(0.9, 0.7)], [record(0.9, 0.8), record(0.9, 0.8)]
    local = task_results(TASKS["stsb"], True, "fine-tuned", ours, dense)
    assert "dataset" not in local[0]
    assert local[0]["dense"] == 0.9
    assert local[0]["runs"] == 2
    assert local[0]["value"] == pytest.approx(0.85)
    assert task_results(TASKS["stsb"], False, "fine-tuned", ours, [])[1] == {
        "task": "STS-B",
        "metric": "spearman",
        "value": pytest.approx(0.65),
        "standard_error": pytest.approx(0.05),
        "setting": "fine-tuned",
        "task_type": "sentence-similarity",
        "dataset": "nyu-mll/glue",
        "dataset_config": "stsb",
        "split": "validation",
        "runs": 2,
        "std": pytest.approx(0.05 * math.sqrt(2)),
        "values": [0.6, 0.7],
        "standard_error_over": "runs",
    }
