"""Rows of a task turned into what Trainer takes, and everything that can be wrong with them refused."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...optional import import_optional
from .labels import in_order_of_the_head, in_order_of_the_task
from .metrics import glue_metrics, standard_errors
from .settings import FineTuningSettings
from .squad_metric import squad_metrics
from .squad_windows import answer_positions, best_answers, cut_windows
from .tasks import Task

Figures = tuple[dict[str, float], dict[str, float]]
"""Metrics and their standard errors over the rows."""


@dataclass(frozen=True)
class Measured:
    """A split to measure on.

    Attributes:
        features: a `datasets.Dataset` of model inputs.
        figures: from the model's predictions on them to metrics.
        largest_id: the largest token id.
        rows: of the split.
    """

    features: Any
    figures: Callable[[Any], Figures]
    largest_id: int
    rows: int


def chosen_rows(rows: Any, most: int | None) -> Any:
    """So many rows at most, drawn at random but always the same ones."""
    if most is None or most >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:most]))


def content_hash(rows: Any) -> str:
    """SHA-256 of the rows' values."""
    pyarrow = import_optional("pyarrow", "evaluation")
    table = rows.with_format("arrow")[:].combine_chunks()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None))
    return hashlib.sha256(sink.getvalue()).hexdigest()


def training_features(
    task: Task, rows: Any, tokenizer: Any, settings: FineTuningSettings, name: str, outputs: Sequence[int] | None = None
) -> Any:
    """Model inputs with labels.

    Args:
        task: what the rows are of.
        rows: a `datasets.Dataset` with the task's columns.
        tokenizer: of the model.
        settings: filled in for the task.
        name: of the rows, for messages.
        outputs: of the head, by label (`labels.head_outputs`).

    Returns:
        A `datasets.Dataset`.

    Raises:
        ValueError: if a text is none, or a label is outside the head.
    """
    datasets = import_optional("datasets", "evaluation")
    columns = _text_columns(task, rows, name)
    if task.kind == "question-answering":
        return datasets.Dataset.from_list(_labelled_windows(rows, columns, tokenizer, settings, name))
    labels = in_order_of_the_head(_labels(task, rows, name), outputs)
    return datasets.Dataset.from_dict({**_tokenized(tokenizer, columns, settings), "labels": labels.tolist()})


def measured_split(
    task: Task, rows: Any, tokenizer: Any, settings: FineTuningSettings, name: str, outputs: Sequence[int] | None = None
) -> Measured:
    """Model inputs of a split, and how its metrics come from predictions.

    Args:
        task: what the rows are of.
        rows: a `datasets.Dataset` with the task's columns.
        tokenizer: of the model.
        settings: filled in for the task.
        name: of the rows, for messages.
        outputs: of the head, by label (`labels.head_outputs`).

    Raises:
        ValueError: if a text is none, or a label is outside the head.
    """
    datasets = import_optional("datasets", "evaluation")
    columns = _text_columns(task, rows, name)
    if task.kind != "question-answering":
        labels = _labels(task, rows, name)
        features = datasets.Dataset.from_dict(_tokenized(tokenizer, columns, settings))

        def figures(predictions: Any) -> Figures:
            logits = predictions[0] if isinstance(predictions, tuple) else predictions  # BART gives hidden states too
            scores = in_order_of_the_task(np.asarray(logits, dtype=np.float64), outputs)  # (n, labels)
            _check_finite(scores)
            chosen = scores[:, 0] if task.kind == "regression" else scores.argmax(axis=1)
            return glue_metrics(task.metrics, chosen, labels), standard_errors(task.metrics, chosen, labels)

        return Measured(features, figures, largest_id(features), len(rows))
    answers = _answers(rows, name)
    _check_distinct(rows["id"], name)
    max_length, stride = int(settings.max_length or 0), int(settings.stride or 0)
    features, windows = cut_windows(tokenizer, dict(zip(task.text_columns, columns, strict=True)), max_length, stride)
    dataset = datasets.Dataset.from_list(features)

    def squad_figures(predictions: Any) -> Figures:
        starts, ends = (np.asarray(logits, dtype=np.float32) for logits in predictions[:2])  # (windows, length)
        _check_finite(starts, ends)
        texts = best_answers(windows, starts, ends, columns[1])
        truths = {str(key): answer["text"] for key, answer in zip(rows["id"], answers, strict=True)}
        return squad_metrics(dict(zip(truths, texts, strict=True)), truths)

    return Measured(dataset, squad_figures, largest_id(dataset), len(rows))


def _check_finite(*predictions: np.ndarray) -> None:
    if not all(np.isfinite(values).all() for values in predictions):
        raise ValueError("predictions are not finite: training has diverged. Lower the learning rate.")


def largest_id(features: Any) -> int:
    """The largest token id among model inputs."""
    return max(max(ids, default=0) for ids in features["input_ids"])


def _tokenized(tokenizer: Any, columns: list[list[str]], settings: FineTuningSettings) -> dict[str, Any]:
    encoded = tokenizer(*columns, truncation=True, max_length=settings.max_length)
    return {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}


def _text_columns(task: Task, rows: Any, name: str) -> list[list[str]]:
    columns = [list(rows[column]) for column in task.text_columns]
    for column, texts in zip(task.text_columns, columns, strict=True):
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{name}: column {column!r} must hold texts, row {number} has {text!r}.")
    return columns


def _labels(task: Task, rows: Any, name: str) -> np.ndarray:
    labels = list(rows["label"])
    for number, label in enumerate(labels):
        if task.kind == "regression":
            if not isinstance(label, (int, float)) or not math.isfinite(label):
                raise ValueError(f"{name}: labels of {task.name} are finite numbers, row {number} has {label!r}.")
        elif not isinstance(label, int) or not 0 <= label < task.num_labels:
            raise ValueError(
                f"{name}: the head has the labels 0 to {task.num_labels - 1} of {task.name}, row {number} has "
                f"{label!r}{': this split has no public labels' if label == -1 else ''}."
            )
    return np.array(labels, dtype=np.float32 if task.kind == "regression" else np.int64)


def _answers(rows: Any, name: str) -> list[dict[str, list[Any]]]:
    answers = list(rows["answers"])
    for number, answer in enumerate(answers):
        if not isinstance(answer, dict) or not answer.get("text") or not answer.get("answer_start"):
            raise ValueError(
                f"{name}: answers must be {{'text': [...], 'answer_start': [...]}} with an answer at least (SQuAD "
                f"v1.1), row {number} has {answer!r}."
            )
    return answers


def _check_distinct(ids: Sequence[Any], name: str) -> None:
    seen: set[str] = set()
    for number, key in enumerate(map(str, ids)):
        if key in seen:
            raise ValueError(f"{name}: ids must be distinct, row {number} has {key!r} again.")
        seen.add(key)


def _check_place(answer: Mapping[str, Any], context: str, name: str, number: int) -> None:
    text, start = answer["text"][0], answer["answer_start"][0]
    if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
        raise ValueError(
            f"{name}: answer_start must be where the answer begins in the context, row {number} has {start!r} for "
            f"{text!r}, and {context[max(0, start) : max(0, start) + len(text)]!r} is there."
        )


def _labelled_windows(
    rows: Any, columns: list[list[str]], tokenizer: Any, settings: FineTuningSettings, name: str
) -> list[dict[str, Any]]:
    answers = _answers(rows, name)
    for number, (answer, context) in enumerate(zip(answers, columns[1], strict=True)):
        _check_place(answer, context, name, number)
    named = {"question": columns[0], "context": columns[1]}
    features, windows = cut_windows(tokenizer, named, int(settings.max_length or 0), int(settings.stride or 0))
    labelled = []
    for feature, window in zip(features, windows, strict=True):
        start = int(answers[window.row]["answer_start"][0])
        first, last = answer_positions(window, start, start + len(answers[window.row]["text"][0]))
        labelled.append({**feature, "start_positions": first, "end_positions": last})
    return labelled
