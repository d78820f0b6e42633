"""In which order a checkpoint's own head gives the labels of a task."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .tasks import Task

logger = logging.getLogger(__name__)
_UNNAMED = re.compile(r"(label)?\d+")


def head_outputs(config: Mapping[str, Any], task: Task) -> list[int] | None:
    """The output of a checkpoint's head for each label of a task, as `id2label` names them.

    Args:
        config: config.json.
        task: of classification.

    Returns:
        `num_labels` numbers; None where the order is the task's own: the head is new, or its labels have no names.
    """
    names = {int(number): _plain(str(name)) for number, name in (config.get("id2label") or {}).items()}
    has_head = any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    wanted = [_plain(label) for label in task.labels]
    if not has_head or not wanted or all(_UNNAMED.fullmatch(name) for name in names.values()):
        return None
    if sorted(names.values()) != sorted(wanted):
        logger.warning(
            "The labels %s of the head are not those of %s (%s): they are taken to be in its order.",
            list((config.get("id2label") or {}).values()), task.title, ", ".join(task.labels),
        )  # fmt: skip
        return None
    number_of = {name: number for number, name in names.items()}
    return [number_of[name] for name in wanted]


def in_order_of_the_task(scores: np.ndarray, outputs: Sequence[int] | None) -> np.ndarray:
    """(n, labels) scores, a column for each label of the task."""
    return scores if outputs is None else scores[:, list(outputs)]


def in_order_of_the_head(labels: np.ndarray, outputs: Sequence[int] | None) -> np.ndarray:
    """(n,) numbers of the head's outputs."""
    return labels if outputs is None else np.asarray(outputs)[labels]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
