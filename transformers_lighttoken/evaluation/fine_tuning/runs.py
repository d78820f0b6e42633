"""Runs of fine-tuning that are made once, stored as they finish, and found again."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout

from ...version import __version__
from ..data import load_hub_rows, load_rows
from ..subject import Subject, check_vocabulary
from .labels import head_outputs
from .preparation import Measured, chosen_rows, content_hash, largest_id, measured_split, training_features
from .settings import FineTuningSettings
from .tasks import Task
from .training import load_for_task, train_and_measure

PROCEDURE = 3
"""Raised when training or measuring changes, so that older runs are not taken for new ones."""
_RESULT, _CHECKPOINTS, _LOCK = "result.json", "checkpoints", "lock"


class RunTakenError(RuntimeError):
    """Another process is making this run."""


@dataclass
class TaskData:
    """The rows of a task, read once.

    Attributes:
        task: what they are of.
        data: local folder; None for the Hub.
        splits: by name, "train" and those that are measured.
    """

    task: Task
    data: Path | None
    splits: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, task: Task, data: str | os.PathLike[str] | None, train: bool = True) -> "TaskData":
        """Reads them.

        Args:
            task: what to read.
            data: local folder, with one folder a task; None for the Hub.
            train: whether the training split is needed.

        Raises:
            ValueError: if columns or rows are missing.
            OSError: if files are missing, or the Hub fails.
        """
        folder = None if data is None else Path(data).expanduser()
        names = ["train"] * train + [split for split, _ in task.splits]
        if folder is None:
            return cls(task, None, {name: load_hub_rows(task.name, name) for name in names})
        return cls(task, folder, {name: load_rows(folder, task.name, name) for name in names})

    def identity(self) -> dict[str, str]:
        """Hashes of the values, by split."""
        return {name: content_hash(rows) for name, rows in self.splits.items()}

    def shown(self, split: str) -> str:
        """How messages call a split."""
        return f"{self.task.name} {split} of {self.data or self.task.dataset}"


@dataclass(frozen=True)
class Run:
    """One run: what decides its outcome, and where it is stored.

    Attributes:
        subject: the checkpoint.
        data: of the task.
        settings: filled in for the task.
        seed: of head, order and dropout.
        identity: what decides the outcome, as plain JSON values.
        folder: where the run is stored.
    """

    subject: Subject
    data: TaskData
    settings: FineTuningSettings
    seed: int
    identity: Mapping[str, Any]
    folder: Path

    @classmethod
    def of(
        cls, subject: Subject, subject_identity: str, data: TaskData, data_identity: Mapping[str, str],
        settings: FineTuningSettings, seed: int, output: Path,
    ) -> "Run":  # fmt: skip
        """The run of this seed; its folder is named after task, seed and a hash of the identity."""
        identity = {
            "procedure": PROCEDURE, "model": subject_identity, "task": data.task.name, "data": dict(data_identity),
            "settings": settings.identity(), "seed": seed,
        }  # fmt: skip
        text = json.dumps(identity, sort_keys=True)
        name = f"{data.task.name}-seed{seed}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        return cls(subject, data, settings, seed, identity, output / "runs" / name)

    def stored(self) -> dict[str, Any] | None:
        """What was stored when the run finished; None if it has not, or the file is damaged."""
        try:
            record = json.loads((self.folder / _RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("identity") == self.identity else None

    def make(self) -> dict[str, Any]:
        """Trains and measures, or goes on where it was interrupted, and stores the outcome.

        Raises:
            RunTakenError: if another process is at it.
            ValueError: if model, tokenizer and data do not fit together; nothing has been trained then.
        """
        prepared = self.prepare()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunTakenError(f"another process is making the run {self.folder}.") from None
        try:
            outcome = train_and_measure(*prepared, self.settings, self.seed, self.folder / _CHECKPOINTS)
            versions = {"transformers-lighttoken": __version__, "torch": torch.__version__}
            versions["transformers"] = transformers.__version__
            record = {"identity": self.identity, "subject": self.subject.name, **outcome, "versions": versions}
            write_whole(self.folder / _RESULT, record)
        finally:
            lock.release()
        return record

    def prepare(self) -> tuple[Any, Any, Any, dict[str, Measured]]:
        """Model, tokenizer, training features and splits, all checked.

        Raises:
            ValueError: if they do not fit together.
        """
        task, splits = self.data.task, self.data.splits
        tokenizer = self.subject.tokenizer()
        model = load_for_task(self.subject, task, self.settings, tokenizer, self.seed)
        outputs, train = head_outputs(self.subject.source.config, task), None
        if self.settings.epochs:
            rows = chosen_rows(splits["train"], self.settings.train_rows)
            train = training_features(task, rows, tokenizer, self.settings, self.data.shown("train"), outputs)
        measured = {
            suffix: measured_split(task, splits[name], tokenizer, self.settings, self.data.shown(name), outputs)
            for name, suffix in task.splits
        }
        largest = [split.largest_id for split in measured.values()] + ([largest_id(train)] if train else [])
        check_vocabulary(self.subject, model, tokenizer, max(largest))
        return model, tokenizer, train, measured


def finite(value: Any) -> Any:
    """Plain JSON values with None for numbers that JSON does not have: NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses no seeds, and a seed given twice, whose run would count twice.

    Raises:
        ValueError: naming them.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be at least one integer, all of them distinct, got {list(seeds)}.")


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that is there whole or not at all."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)
