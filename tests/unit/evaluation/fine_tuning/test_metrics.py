"""GLUE's metrics against their definitions, written out."""

import math

import numpy as np
import pytest

from transformers_lighttoken.evaluation.fine_tuning.metrics import METRICS, glue_metrics, score, standard_errors

PREDICTED = np.array([1, 1, 1, 0, 0, 1, 0, 1])
TRUE = np.array([1, 0, 1, 0, 1, 1, 0, 0])
# true positives 3, false positives 2, false negatives 1, true negatives 2


def test_labels_by_hand():
    names = ("accuracy", "f1", "matthews_correlation")
    found = glue_metrics(names, PREDICTED, TRUE)
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert found["matthews_correlation"] == pytest.approx((3 * 2 - 2 * 1) / math.sqrt(5 * 4 * 4 * 3))
    assert score(found) == pytest.approx(sum(found.values()) / 3)


def test_f1_is_that_of_label_one():
    assert glue_metrics(("f1",), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))["f1"] == pytest.approx(2 / 3)
    assert glue_metrics(("f1",), np.zeros(4, int), np.array([0, 0, 1, 1])) == {"f1": 0.0}


def test_correlations_by_hand():
    scores, gold = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.0, 2.5, 2.5, 5.0])
    found = glue_metrics(("pearson", "spearman"), scores, gold)
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, gold)[0, 1])
    ranks = np.corrcoef([1, 2, 3, 4], [1, 2.5, 2.5, 4])[0, 1]  # ties share the mean rank
    assert found["spearman"] == pytest.approx(ranks)
    assert glue_metrics(("spearman",), np.exp(scores), np.exp(scores)) == {"spearman": pytest.approx(1)}


def test_a_model_that_says_always_the_same_has_no_correlation():
    constant = np.full(8, 0.5)
    assert glue_metrics(("pearson", "spearman"), constant, np.arange(8.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert glue_metrics(("matthews_correlation",), np.ones(8, int), TRUE) == {"matthews_correlation": 0.0}
    assert glue_metrics(("matthews_correlation",), np.ones(8, int), np.ones(8, int)) == {"matthews_correlation": 0.0}


def test_the_standard_error_of_an_accuracy_is_binomial():
    predicted, true = np.arange(500) % 5 == 0, np.zeros(500, bool)
    error = standard_errors(("accuracy",), predicted.astype(int), true.astype(int))["accuracy"]
    assert error == pytest.approx(math.sqrt(0.2 * 0.8 / 500), rel=0.15)
    assert standard_errors(("accuracy",), TRUE, TRUE) == {"accuracy": 0.0}


def test_standard_errors_are_the_same_each_time():
    first, second = (standard_errors(("f1", "matthews_correlation"), PREDICTED, TRUE) for _ in range(2))
    assert first == second
    assert all(0.05 < error < 0.5 for error in first.values())


def test_useless_predictions_are_refused():
    with pytest.raises(ValueError, match=r"vectors of one length, got \(2,\) and \(8,\)"):
        glue_metrics(("accuracy",), TRUE[:2], TRUE)
    with pytest.raises(ValueError, match="predictions are not finite: training has diverged"):
        glue_metrics(("pearson",), np.array([1, math.nan]), np.array([1.0, 2]))
    assert set(METRICS) == {"accuracy", "f1", "matthews_correlation", "pearson", "spearman"}
