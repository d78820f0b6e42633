"""Checkpoints of a tiny BERT, compressed and dense."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import compress_at_random
from tests.unit.modeling.saved_bert import MLM


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed BERT with a tied head; not to be written to."""
    folder = tmp_path_factory.mktemp("compressed")
    model = MLM.build()
    compress_at_random(model, tiers=2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(name="folder")
def _folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module", name="dense")
def _dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    MLM.build().save_pretrained(folder)
    return folder
