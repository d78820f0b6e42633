"""Exact match and F1 of SQuAD v1.1, as the official script scores them (Rajpurkar et al. 2016), as fractions."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, blanks made single."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 if the normalized answers are the same, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(truth))


def f1(prediction: str, truth: str) -> float:
    """Harmonic mean of precision and recall of the words."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(truth).split()
    common = sum((Counter(predicted) & Counter(true)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(true)
    return 2 * precision * recall / (precision + recall)


def squad_metrics(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Means over the questions of the best score among the true answers; a question without a prediction scores 0.

    Args:
        predictions: answers by the ids of questions.
        answers: the true ones.

    Returns:
        The metrics, and their standard errors over the choice of questions (NaN for a single one).

    Raises:
        ValueError: if there are no questions.
    """
    if not answers:
        raise ValueError("answers must be of one question at least.")
    metrics, errors = {}, {}
    for name, measure in (("exact_match", exact_match), ("f1", f1)):
        scores = np.array([_best(measure, predictions.get(key), true) for key, true in answers.items()])
        metrics[name] = float(scores.mean())
        errors[name] = float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else float("nan")
    return metrics, errors


def _best(measure: Callable[[str, str], float], prediction: str | None, truths: Sequence[str]) -> float:
    return 0.0 if prediction is None else max((measure(prediction, truth) for truth in truths), default=0.0)
