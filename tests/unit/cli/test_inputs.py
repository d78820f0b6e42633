"""Files that options name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_lighttoken.cli.inputs import read_frequencies, read_texts

COUNTS = [3.0, 0.0, 2.5]


@pytest.mark.parametrize("name", ["counts.json", "counts.npy", "counts.txt"])
def test_frequencies_in_every_form(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, np.array(COUNTS, dtype=np.float32))
    else:
        path.write_text(json.dumps(COUNTS) if path.suffix == ".json" else "3\n0\n2.5\n")
    read = read_frequencies(path)
    assert read.dtype == torch.float64
    assert read.tolist() == COUNTS


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "holds no frequencies: give one number a token"),
        ("a.json", '{"the": 3}', "holds no frequencies"),
        ("a.json", '["x"]', "holds no frequencies"),
        ("a.json", "[[1, 2], [3, 4]]", r"shape \(2, 2\)"),
        ("a.json", "[]", r"shape \(0,\)"),
        ("a.txt", "1\nthe\n", "holds no frequencies"),
        ("a.txt", "1\n-2\n", "holds -2.0 for token 1: frequencies are finite and not negative"),
        ("a.json", "[1, NaN]", "holds nan for token 1"),
        ("a.npy", "no array", "holds no frequencies"),
    ],
)
def test_what_is_no_frequencies(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_frequencies(tmp_path / name)


def test_pickled_arrays_are_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no frequencies"):
        read_frequencies(tmp_path / "a.npy")


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  first line\n\n \nsecond\u00fc\n", encoding="utf-8")
    assert read_texts(tmp_path / "a.txt") == ["first line", "second\u00fc"]
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(ValueError, match="holds no text"):
        read_texts(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read_texts(tmp_path / "a.txt")
