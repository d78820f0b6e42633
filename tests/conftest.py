"""Checkpoints of tiny models, for tests of files."""

from pathlib import Path

import pytest

from tests.checkpoints import SMALL, save_dense
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.modeling import measure


@pytest.fixture(autouse=True)
def few_predicted_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Language models that write are measured on little, so that tests are quick; in processes of their own on all."""
    monkeypatch.setattr(measure, "_PREDICTED_TOKENS", 4096)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A dense checkpoint; modules that need more of one build on it."""
    save_dense(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "output"


@pytest.fixture
def compressed(dense: Path, tmp_path: Path) -> Path:
    """The dense checkpoint, compressed."""
    compress_checkpoint(dense, tmp_path / "compressed", SMALL)
    return tmp_path / "compressed"
