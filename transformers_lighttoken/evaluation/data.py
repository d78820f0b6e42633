"""Evaluation data from a local folder in the column layout of the Hub's GLUE and SQuAD."""

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
    missing = [name for name in TASK_COLUMNS[task] if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the column {missing[0]!r}: task {task} needs {', '.join(TASK_COLUMNS[task])}, and the file "
            f"has {', '.join(table.column_names)}."
        )
    if not table.num_rows:
        raise ValueError(f"{path} has no rows.")
    return datasets.Dataset(datasets.table.InMemoryTable(table))


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


def _existing(folder: str | Path, subject: str, file: str) -> Path:
    path = Path(folder) / subject / file
    if path.is_file():
        return path
    parent = path.parent if path.parent.is_dir() else Path(folder)
    there = ", ".join(sorted(entry.name for entry in parent.iterdir())) if parent.is_dir() else "no such folder"
    raise FileNotFoundError(f"{path} does not exist; {parent} holds: {there or 'nothing'}.")
