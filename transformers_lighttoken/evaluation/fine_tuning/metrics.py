"""The official metrics of GLUE, as fractions, and their standard errors over the rows."""

from collections.abc import Callable, Mapping

import numpy as np

from ...optional import import_optional

Values = np.ndarray
_RESAMPLES = 200


def glue_metrics(names: tuple[str, ...], predictions: Values, labels: Values) -> dict[str, float]:
    """The named metrics, after Wang et al. 2019 (GLUE).

    Accuracy; F1 of label 1; Matthews correlation; Pearson and Spearman correlation, 0 where all predictions are alike.

    Args:
        names: keys of `METRICS`.
        predictions: (n,) labels, or scores for the correlations of ranks and values.
        labels: (n,) of the same kind.

    Raises:
        ValueError: if the lengths differ, nothing is given, or a score is not finite.
        ImportError: if scikit-learn or scipy is not installed.
    """
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(
            f"predictions and labels must be vectors of one length, got {predictions.shape} and {labels.shape}."
        )
    if not np.isfinite(predictions.astype(np.float64)).all():
        raise ValueError("predictions are not finite: training has diverged. Lower the learning rate.")
    return {name: METRICS[name](predictions, labels) for name in names}


def standard_errors(names: tuple[str, ...], predictions: Values, labels: Values) -> dict[str, float]:
    """Standard errors over the choice of rows, by the bootstrap (Efron 1979) with 200 fixed draws.

    Args:
        names: keys of `METRICS`.
        predictions: (n,) as of `glue_metrics`.
        labels: (n,).
    """
    draws = np.random.default_rng(0).integers(0, len(labels), (_RESAMPLES, len(labels)))
    figures = [glue_metrics(names, predictions[rows], labels[rows]) for rows in draws]
    return {name: float(np.std([figure[name] for figure in figures], ddof=1)) for name in names}


def score(metrics: Mapping[str, float]) -> float:
    """GLUE's score of a task: the mean of its metrics."""
    return sum(metrics.values()) / len(metrics)


def _accuracy(predictions: Values, labels: Values) -> float:
    return float(np.mean(predictions == labels))


def _f1(predictions: Values, labels: Values) -> float:
    metrics = import_optional("sklearn.metrics", "evaluation")
    return float(metrics.f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))


def _matthews(predictions: Values, labels: Values) -> float:
    metrics = import_optional("sklearn.metrics", "evaluation")
    return float(metrics.matthews_corrcoef(labels, predictions)) if len({*labels.tolist()}) > 1 else 0.0


def _pearson(predictions: Values, labels: Values) -> float:
    return _correlation("pearsonr", predictions, labels)


def _spearman(predictions: Values, labels: Values) -> float:
    return _correlation("spearmanr", predictions, labels)


def _correlation(function: str, predictions: Values, labels: Values) -> float:
    stats = import_optional("scipy.stats", "evaluation")
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(getattr(stats, function)(predictions.astype(np.float64), labels.astype(np.float64)).statistic)


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""Every metric by its name: predictions and labels to a fraction."""
