"""Reading the files that options name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_frequencies(path: Path) -> Tensor:
    """Counts of the tokens, by id.

    Args:
        path: a JSON list, a NumPy array (.npy), or a text file with one number a line.

    Returns:
        (V,) float64.

    Raises:
        ValueError: if the file holds something else, or a number that is negative or not finite.
    """
    try:
        values = np.asarray(_read_numbers(path), dtype=np.float64)
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} holds no frequencies: give one number a token, in order of ids, as a JSON list, a NumPy array "
            f"(.npy), or a text file with one a line ({error})."
        ) from error
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{path} holds numbers of shape {values.shape}: frequencies are one number a token.")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"{path} holds {values[first]} for token {first}: frequencies are finite and not negative.")
    return torch.from_numpy(values)


def read_texts(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ValueError: if there are none, or the file is no UTF-8 text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}.") from error
    texts = [line for line in lines if line]
    if not texts:
        raise ValueError(f"{path} holds no text.")
    return texts


def _read_numbers(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [float(line) for line in text.split()]
