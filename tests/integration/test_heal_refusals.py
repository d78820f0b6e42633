"""What healing refuses: before anything is trained, and with nothing changed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import file_contents
from tests.healing import OPTIONS, TEXT, Letters, make, settled
from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import heal_checkpoint, heal_model
from transformers_lighttoken.checkpoint.source import SourceError
from transformers_lighttoken.modeling.heal import HealingOptions


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path, "bert-mlm")


def test_a_dense_checkpoint(both: tuple[Path, Path]):
    with pytest.raises(SourceError, match="is not compressed with LightToken, but dense"):
        heal_checkpoint(both[0], TEXT, baseline=both[0], options=OPTIONS)


def test_a_compressed_baseline(both: tuple[Path, Path]):
    with pytest.raises(SourceError, match="compressed with LightToken already"):
        heal_checkpoint(both[1], TEXT, baseline=both[1], options=OPTIONS)


def test_no_baseline(both: tuple[Path, Path]):
    with pytest.raises(SourceError, match="does not say which repository .* --baseline"):
        heal_checkpoint(both[1], TEXT, options=OPTIONS)


def test_another_models_baseline(both: tuple[Path, Path], tmp_path: Path):
    ARCHITECTURES["bert-mlm"].build(vocab_size=170).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"is \(160, 32\), the dense model .* has one of \(170, 32\)"):
        heal_checkpoint(both[1], TEXT, baseline=tmp_path / "other", options=OPTIONS)


def test_another_model_of_the_same_shapes(both: tuple[Path, Path], tmp_path: Path):
    before = file_contents(both[1])
    ARCHITECTURES["bert-mlm"].build(seed=99).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is not that of the compressed one, which was made from another model"):
        heal_checkpoint(both[1], TEXT, baseline=tmp_path / "other", options=OPTIONS)
    assert file_contents(both[1]) == before


def test_the_same_model_in_another_dtype_is_taken(both: tuple[Path, Path]):
    ARCHITECTURES["bert-mlm"].build().to(torch.bfloat16).save_pretrained(both[0])
    result = heal_checkpoint(both[1], TEXT, baseline=both[0], options=OPTIONS)
    assert result.divergence_after < result.divergence_before


def test_a_text_of_a_few_words(both: tuple[Path, Path]):
    with pytest.raises(ValueError, match="text has 3 tokens, two windows of 14 are the least"):
        heal_checkpoint(both[1], "word1 word2\nword3", baseline=both[0], options=OPTIONS)


@pytest.mark.parametrize("name", ["clip", "whisper"])
def test_models_that_read_more_than_text(name: str):
    model, dense = (ARCHITECTURES[name].build() for _ in range(2))
    compress_at_random(model)
    with pytest.raises(TypeError, match=r"teacher .* does not run on token ids alone, so it can't be healed"):
        heal_model(model, dense, Letters(), "ab " * 300, OPTIONS)


@pytest.mark.parametrize("text", ["", " \n\n ", []])
def test_an_empty_text(both: tuple[Path, Path], text: Any):
    before = file_contents(both[1])
    with pytest.raises(ValueError, match="text is empty"):
        heal_checkpoint(both[1], text, baseline=both[0], options=OPTIONS)
    assert file_contents(both[1]) == before
    settled(both[1])


def test_a_tokenizer_that_does_not_fit(both: tuple[Path, Path]):
    letters = Letters()
    letters.offset = 100
    model, dense = (ARCHITECTURES["llama-tied"].build() for _ in range(2))
    compress_at_random(model)
    with pytest.raises(ValueError, match="the tokenizer gives the id .*, the compressed table has 160 rows"):
        heal_model(model, dense, letters, "zz zz", OPTIONS)


def test_a_folder_without_a_tokenizer(both: tuple[Path, Path]):
    for path in both[1].glob("*token*"):
        path.unlink()
    (both[1] / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="tokenizer"):
        heal_checkpoint(both[1], TEXT, baseline=both[0], options=OPTIONS)


def test_models_in_memory_of_the_wrong_kind():
    dense, compressed = (ARCHITECTURES["llama-tied"].build() for _ in range(2))
    compress_at_random(compressed)
    with pytest.raises(ValueError, match="has no compressed table"):
        heal_model(dense, dense, Letters(), "ab", OPTIONS)
    with pytest.raises(ValueError, match="teacher .* is compressed itself"):
        heal_model(compressed, compressed, Letters(), "ab", OPTIONS)


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("steps", -1), ("batch_size", True), ("window", 1.5)])
def test_options(field: str, value: Any):
    with pytest.raises(ValueError, match=f"{field} must be a positive integer"):
        HealingOptions(**{field: value})
    with pytest.raises(ValueError, match="parts must be some of decoder, low_rank, row_scales, exact_rows"):
        HealingOptions(parts=("decoder", "codes"))
    with pytest.raises(ValueError, match="learning_rate must be between 0 and 1"):
        HealingOptions(learning_rate=0.0)


def test_a_run_that_does_not_help_changes_nothing(both: tuple[Path, Path]):
    before = file_contents(both[1])
    with pytest.raises(ValueError, match="healing made the model no better"):
        heal_checkpoint(both[1], TEXT, baseline=both[0], options=HealingOptions(20, 4, 16, 0.99))
    assert file_contents(both[1]) == before
    settled(both[1])


def test_two_runs_at_once(both: tuple[Path, Path]):
    def second(what: str, done: int, total: int) -> None:
        heal_checkpoint(both[1], TEXT, baseline=both[0], options=OPTIONS)

    with pytest.raises(OSError, match="another run heals"):
        heal_checkpoint(both[1], TEXT, baseline=both[0], options=OPTIONS, progress=second)
