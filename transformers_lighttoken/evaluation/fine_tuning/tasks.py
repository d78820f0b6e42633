"""The tasks of GLUE, and SQuAD v1.1: their columns, metrics, places on the Hub and customary training."""

from dataclasses import dataclass
from typing import Literal

from ..data import TASK_COLUMNS

Kind = Literal["classification", "regression", "question-answering"]


@dataclass(frozen=True)
class TaskDefaults:
    """Training as transformers' own examples (run_glue, run_qa) do it.

    Attributes:
        epochs: over the training rows.
        learning_rate: highest of a linear schedule.
        batch_size: rows a step.
        max_length: tokens of a row; longer ones are cut, for question answering into windows.
    """

    epochs: int = 3
    learning_rate: float = 2e-5
    batch_size: int = 32
    max_length: int = 128


@dataclass(frozen=True)
class Task:
    """A task to fine-tune on.

    Attributes:
        name: as GLUE's configuration on the Hub, or "squad".
        title: for people.
        kind: what the head predicts.
        num_labels: outputs of the head.
        metrics: the official ones, as fractions.
        task_type: the Hub's name for the kind of task.
        dataset: its repository on the Hub.
        dataset_config: of that repository, None where it has one only.
        labels: of classification, as GLUE names them, by number.
        splits: that are measured, each with what it adds to the names of the metrics.
        defaults: of training.
    """

    name: str
    title: str
    kind: Kind
    num_labels: int
    metrics: tuple[str, ...]
    task_type: str
    dataset: str = "nyu-mll/glue"
    dataset_config: str | None = None
    labels: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = (("validation", ""),)
    defaults: TaskDefaults = TaskDefaults()

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One or two columns of text that the model reads."""
        return ("question", "context") if self.kind == "question-answering" else TASK_COLUMNS[self.name][:-1]

    @property
    def reported_metrics(self) -> tuple[tuple[str, str], ...]:
        """Names of the figures, each with its split."""
        return tuple((metric + suffix, split) for split, suffix in self.splits for metric in self.metrics)


def _glue(
    name: str, title: str, metrics: tuple[str, ...], task_type: str, labels: tuple[str, ...] = (),
    epochs: int = 3, splits: tuple[tuple[str, str], ...] = (("validation", ""),),
) -> Task:  # fmt: skip
    kind: Kind = "classification" if labels else "regression"
    return Task(
        name, title, kind, len(labels) or 1, metrics, task_type, dataset_config=name, labels=labels, splits=splits,
        defaults=TaskDefaults(epochs=epochs),
    )  # fmt: skip


_PAIR, _SENTENCE = "natural-language-inference", "text-classification"
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI_SPLITS = (("validation_matched", ""), ("validation_mismatched", "_mismatched"))
_SQUAD = TaskDefaults(epochs=2, learning_rate=3e-5, batch_size=12, max_length=384)

TASKS = {
    task.name: task
    for task in (
        _glue("cola", "CoLA", ("matthews_correlation",), _SENTENCE, ("unacceptable", "acceptable")),
        _glue("sst2", "SST-2", ("accuracy",), _SENTENCE, ("negative", "positive")),
        _glue("mrpc", "MRPC", ("accuracy", "f1"), _SENTENCE, ("not_equivalent", "equivalent"), epochs=5),
        _glue("qqp", "QQP", ("accuracy", "f1"), _SENTENCE, ("not_duplicate", "duplicate")),
        _glue("stsb", "STS-B", ("pearson", "spearman"), "sentence-similarity"),
        _glue("mnli", "MNLI", ("accuracy",), _PAIR, ("entailment", "neutral", "contradiction"), splits=_MNLI_SPLITS),
        _glue("qnli", "QNLI", ("accuracy",), _PAIR, _ENTAILMENT),
        _glue("rte", "RTE", ("accuracy",), _PAIR, _ENTAILMENT),
        _glue("wnli", "WNLI", ("accuracy",), _PAIR, _ENTAILMENT[::-1], epochs=5),
        Task(
            "squad", "SQuAD v1.1", "question-answering", 2, ("exact_match", "f1"), "question-answering",
            "rajpurkar/squad", defaults=_SQUAD,
        ),
    )
}  # fmt: skip
"""Every task that is fine-tuned on, by name."""


def task_named(name: str) -> Task:
    """The task of this name.

    Raises:
        ValueError: if there is none; names those that there are.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}.")
    return TASKS[name]
