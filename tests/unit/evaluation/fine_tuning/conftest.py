"""A tiny model with a tokenizer, and data that it can learn from."""

from pathlib import Path

import pytest

from tests.checkpoints import add_tokenizer, save_dense
from tests.unit.evaluation.fine_tuning.samples import write_glue


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A dense tiny BERT."""
    save_dense(tmp_path / "model")
    add_tokenizer(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of STS-B and CoLA."""
    write_glue(tmp_path / "data", "stsb")
    return write_glue(tmp_path / "data", "cola")
