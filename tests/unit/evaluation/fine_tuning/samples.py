"""Small data sets with the columns of GLUE and SQuAD, whose labels can be learnt from a word."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = 100


def write_rows(folder: Path, task: str, split: str, columns: dict[str, Any]) -> Path:
    (folder / task).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / task / f"{split}.parquet")
    return folder


def sentence(random: np.random.Generator, count: int = 6) -> str:
    return " ".join(f"word{number}" for number in random.integers(10, WORDS, count))


def write_glue(folder: Path, task: str, rows: int = 24) -> Path:
    """cola (one text), mrpc (two texts) or stsb (two texts and a score): the first words tell the label."""
    for number, split in enumerate(("train", "validation")):
        random = np.random.default_rng(number)
        labels = np.arange(rows) % 2
        texts = [f"word{label} word{label} word{label} {sentence(random, 3)}" for label in labels]
        others = [sentence(random) for _ in labels]
        columns = {"sentence": texts} if task == "cola" else {"sentence1": texts, "sentence2": others}
        values = labels * 2.5 + random.random(rows) if task == "stsb" else labels
        write_rows(folder, task, split, {**columns, "label": values.tolist(), "idx": list(range(rows))})
    return folder


def write_squad(folder: Path, rows: int = 12) -> Path:
    """Contexts longer than a window of the tiny models; the answer follows word1."""
    for number, split in enumerate(("train", "validation")):
        random = np.random.default_rng(number)
        contexts = [f"{sentence(random, 20)} word1 word{20 + row} {sentence(random, 25)}" for row in range(rows)]
        answers = [
            {"text": [f"word{20 + row}"], "answer_start": [context.index("word1 ") + 6]}
            for row, context in enumerate(contexts)
        ]
        columns = {"id": [str(row) for row in range(rows)], "title": ["t"] * rows, "context": contexts}
        write_rows(folder, "squad", split, {**columns, "question": ["word1 word2"] * rows, "answers": answers})
    return folder
