"""Evaluation data in the column layout of the Hub's GLUE and SQuAD: from a local folder, or from the Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..optional import import_optional

TASK_COLUMNS = {
    "cola": ("sentence", "label"),
    "sst2": ("sentence", "label"),
    "mrpc": ("sentence1", "sentence2", "label"),
    "qqp": ("question1", "question2", "label"),
    "stsb": ("sentence1", "sentence2", "label"),
    "mnli": ("premise", "hypothesis", "label"),
    "qnli": ("question", "sentence", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "wnli": ("sentence1", "sentence2", "label"),
    "squad": ("id", "title", "context", "question", "answers"),
}
"""Columns that each task needs; others may be there."""


def load_rows(folder: str | Path, task: str, split: str) -> Any:
    """Reads `FOLDER/TASK/SPLIT.parquet` into memory.

    Args:
        folder: with one folder per task.
        task: one of `TASK_COLUMNS`.
        split: such as "train" or "validation".

    Returns:
        A `datasets.Dataset` with at least the columns of the task.

    Raises:
        ValueError: if the task is unknown, or the file is no parquet file, lacks a column or has no rows.
        FileNotFoundError: if there is no such file.
        ImportError: if datasets or pyarrow is not installed.
    """
    if task not in TASK_COLUMNS:
        raise ValueError(f"task must be one of {', '.join(TASK_COLUMNS)}, got {task!r}.")
    path = _existing(folder, task, f"{split}.parquet")
    parquet = import_optional("pyarrow.parquet", "reading evaluation data")
    datasets = import_optional("datasets", "evaluation")
    try:
        table = parquet.read_table(path)
    except import_optional("pyarrow", "reading evaluation data").ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    _check_rows(table, task, str(path))
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def load_hub_rows(task: str, split: str) -> Any:
    """Downloads a split of `nyu-mll/glue` or `rajpurkar/squad`, or takes it from the cache of datasets.

    Returns:
        A `datasets.Dataset` with at least the columns of the task.

    Raises:
        ValueError: if the task is unknown, or what the Hub has lacks a column.
        OSError: if it cannot be downloaded; names the remedy.
        ImportError: if datasets is not installed.
    """
    if task not in TASK_COLUMNS:
        raise ValueError(f"task must be one of {', '.join(TASK_COLUMNS)}, got {task!r}.")
    name, config = ("rajpurkar/squad", None) if task == "squad" else ("nyu-mll/glue", task)
    rows = _from_hub(lambda load: load(name, config, split=split), f"{name} ({task}, {split})")
    _check_rows(rows, task, name)
    return rows


def load_hub_text() -> str:
    """The validation split of wikitext-2 (raw), as one text.

    Raises:
        OSError: if it cannot be downloaded; names the remedy.
        ImportError: if datasets is not installed.
    """
    name, config = "Salesforce/wikitext", "wikitext-2-raw-v1"
    rows = _from_hub(lambda load: load(name, config, split="validation"), f"{name} ({config})")
    return "".join(rows["text"])


def load_text(folder: str | Path, corpus: str = "wikitext2", split: str = "validation") -> str:
    """Reads `FOLDER/CORPUS/SPLIT.txt`, UTF-8, as it is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8 or is empty.
    """
    path = _existing(folder, corpus, f"{split}.txt")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty.")
    return text


def _from_hub(download: Callable[[Any], Any], shown: str) -> Any:
    datasets = import_optional("datasets", "evaluation")
    try:
        return download(datasets.load_dataset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise OSError(
            f"{shown} cannot be loaded from the Hub ({' '.join(str(error).split())[:300]}): give a local folder as "
            "data, with TASK/SPLIT.parquet or wikitext2/validation.txt in it."
        ) from error


def _check_rows(rows: Any, task: str, shown: str) -> None:
    missing = [name for name in TASK_COLUMNS[task] if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"{shown} lacks the column {missing[0]!r}: task {task} needs {', '.join(TASK_COLUMNS[task])}, and it "
            f"has {', '.join(rows.column_names)}."
        )
    if not rows.num_rows:
        raise ValueError(f"{shown} has no rows.")


def _existing(folder: str | Path, subject: str, file: str) -> Path:
    path = Path(folder) / subject / file
    if path.is_file():
        return path
    parent = path.parent if path.parent.is_dir() else Path(folder)
    there = ", ".join(sorted(entry.name for entry in parent.iterdir())) if parent.is_dir() else "no such folder"
    raise FileNotFoundError(f"{path} does not exist; {parent} holds: {there or 'nothing'}.")
