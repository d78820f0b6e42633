"""What several runs add up to: means, spreads, standard errors, and the share of the dense model's figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import score
from .tasks import Task


@dataclass(frozen=True)
class Figure:
    """A mean over runs.

    Attributes:
        value: the mean.
        std: standard deviation over the runs; None for a single one.
        standard_error: of the mean over the runs; for a single run that over the rows it is measured on, if known.
        error_over: "runs" or "rows".
        values: of each run.
    """

    value: float
    std: float | None
    standard_error: float | None
    error_over: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], row_error: float | None = None) -> "Figure":
        """Summarizes runs.

        Args:
            values: of at least one run.
            row_error: standard error over the rows, of one run.
        """
        mean = statistics.fmean(values)
        if len(values) > 1:
            std = statistics.stdev(values)
            return cls(mean, std, std / math.sqrt(len(values)), "runs", tuple(values))
        known = row_error is not None and math.isfinite(row_error)
        return cls(mean, None, row_error if known else None, "rows", tuple(values))


def difference(ours: Figure, dense: Figure) -> dict[str, Any]:
    """How a figure stands to the dense model's: share, difference and its standard error, whether that is a tie.

    The two are taken as independent. A difference of at most its standard error is called a tie.
    """
    result: dict[str, Any] = {"dense": dense.value, "dense_standard_error": dense.standard_error}
    result["share"] = ours.value / dense.value if dense.value else None
    result["difference"] = ours.value - dense.value
    if ours.standard_error is not None and dense.standard_error is not None:
        error = math.hypot(ours.standard_error, dense.standard_error)
        result |= {"difference_standard_error": error, "tie": abs(result["difference"]) <= error}
    return result


def task_figures(task: Task, records: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Each metric over the runs of one model."""
    errors = records[0]["row_standard_errors"]
    return {
        name: Figure.of([record["metrics"][name] for record in records], errors.get(name))
        for name, _ in task.reported_metrics
    }


def task_score(records: Sequence[Mapping[str, Any]]) -> Figure:
    """GLUE's score of the task over the runs of one model; a single run's error is the largest of its metrics'."""
    errors = [error for error in records[0]["row_standard_errors"].values() if math.isfinite(error)]
    return Figure.of([score(record["metrics"]) for record in records], max(errors, default=None))


def task_results(
    task: Task, local: bool, setting: str, ours: Sequence[Mapping[str, Any]], dense: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The results of one task as a model card and programs read them.

    Args:
        task: what was measured.
        local: whether the rows came from a local folder: they are then not said to be those of the Hub.
        setting: such as "fine-tuned".
        ours: runs of the model.
        dense: runs of the dense model; empty if it was not measured.
    """
    compared = task_figures(task, dense) if dense else {}
    splits = dict(task.reported_metrics)
    place = {} if local else {"dataset": task.dataset, "dataset_config": task.dataset_config}
    results = []
    for name, figure in task_figures(task, ours).items():
        entry: dict[str, Any] = {
            "task": task.title, "metric": name, "value": figure.value, "standard_error": figure.standard_error,
            "setting": setting, "task_type": task.task_type, **place, "split": splits[name],
            "runs": len(figure.values), "std": figure.std, "values": list(figure.values),
            "standard_error_over": figure.error_over,
        }  # fmt: skip
        entry |= difference(figure, compared[name]) if compared else {}
        results.append({key: value for key, value in entry.items() if value is not None})
    return results
