"""How a model is fine-tuned: the budget, the same for every model that is compared."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from .tasks import Task

TableMode = Literal["trained", "frozen"]
Precision = Literal["fp32", "bf16"]
_WARMUP_SHARE = 0.06


@dataclass(frozen=True)
class FineTuningSettings:
    """What is left None is as customary for the task (see `tasks.TaskDefaults`).

    Attributes:
        epochs: over the training rows; 0 measures a model with its head as it is.
        learning_rate: highest of a linear schedule, which warms up over 6 % of the steps; AdamW, no weight decay.
        batch_size: rows a step.
        max_length: tokens of a row, or of a window of SQuAD.
        stride: tokens that neighbouring windows of SQuAD share.
        train_rows: so many training rows at most, drawn once, the same for all seeds and models; None for all.
        table: "trained": what trains of the token-embedding table by default; "frozen": nothing of it.
        precision: "bf16" for bfloat16 autocast; the weights stay float32.
        device: "auto" (a GPU if there is one) or "cpu".
    """

    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    max_length: int | None = None
    stride: int | None = None
    train_rows: int | None = None
    table: TableMode = "trained"
    precision: Precision = "fp32"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_length", 8), ("stride", 0), ("train_rows", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least} or None, got {value!r}.")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise ValueError(f"epochs must be at least 0 or None, got {self.epochs!r}.")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive or None, got {self.learning_rate!r}.")
        for name, values in (("table", ("trained", "frozen")), ("precision", ("fp32", "bf16")), ("device", _DEVICES)):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}.")

    def of(self, task: Task, longest: int | None = None) -> "FineTuningSettings":
        """With the task's own values where nothing is said.

        Args:
            task: to train on.
            longest: tokens that the model takes at most; None where that is not known.

        Raises:
            ValueError: if `max_length` is beyond that.
        """
        if longest is not None and (self.max_length or 0) > longest:
            raise ValueError(f"max_length must be at most {longest} for this model, got {self.max_length}.")
        names = ("epochs", "learning_rate", "batch_size", "max_length")
        filled: dict[str, Any] = {
            name: getattr(task.defaults, name) if getattr(self, name) is None else getattr(self, name) for name in names
        }
        if self.max_length is None and longest is not None:
            filled["max_length"] = min(filled["max_length"], longest)
        if task.kind == "question-answering" and self.stride is None:
            filled["stride"] = min(128, filled["max_length"] // 3)
        return replace(self, **filled)

    def identity(self) -> dict[str, Any]:
        """What decides the outcome of a run, as plain JSON values; not where it is computed."""
        values = {key: value for key, value in vars(self).items() if key != "device"}
        return values | {"epochs": float(values["epochs"] or 0), "warmup_share": _WARMUP_SHARE}

    def steps(self, rows: int) -> tuple[int, int]:
        """Steps of the training over so many rows, and how many of them warm up."""
        total = math.ceil(rows / (self.batch_size or 1)) * (self.epochs or 0)
        return math.ceil(total), math.ceil(total * _WARMUP_SHARE)


_DEVICES = ("auto", "cpu")
