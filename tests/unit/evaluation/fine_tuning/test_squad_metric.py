"""SQuAD's metrics, value by value as the official script (evaluate-v1.1.py) gives them."""

import pytest

from transformers_lighttoken.evaluation.fine_tuning.squad_metric import (
    exact_match,
    f1,
    normalize_answer,
    squad_metrics,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,  a day", "apple day"),
        ("U.S. Army", "us army"),
        ("theory", "theory"),
        ("Super Bowl 50's", "super bowl 50s"),
        ("well-known", "wellknown"),
        ("a", ""),
        ("Straße – 5", "straße – 5"),  # only ASCII punctuation goes
    ],
)
def test_normalization(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "overlap"),
    [
        ("Denver Broncos", "the Denver Broncos.", 1, 1),
        ("in Paris France", "Paris", 0, 0.5),
        ("Paris Paris", "Paris", 0, 2 / 3),
        ("London", "Paris", 0, 0),
        ("", "Paris", 0, 0),
        ("the", "a", 1, 0),  # both empty when normalized: the script counts a match, and no common word
    ],
)
def test_scores(prediction, truth, exact, overlap):
    assert exact_match(prediction, truth) == exact
    assert f1(prediction, truth) == pytest.approx(overlap)


def test_the_best_true_answer_counts_and_a_missing_one_scores_nothing():
    answers = {"q1": ["Paris", "Paris, France"], "q2": ["1066"], "q3": ["x y"], "q4": ["z"]}
    metrics, errors = squad_metrics({"q1": "paris france", "q2": "in 1066", "q3": "x w"}, answers)
    assert metrics == {"exact_match": 0.25, "f1": pytest.approx((1 + 2 / 3 + 1 / 2 + 0) / 4)}
    assert errors["exact_match"] == pytest.approx(0.25)  # sqrt(0.75 / 3 / 4)


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="answers must be of one question at least"):
        squad_metrics({}, {})
