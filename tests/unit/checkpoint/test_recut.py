"""Smaller checkpoints from compressed ones, without the original."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, LlamaForCausalLM

from tests.checkpoints import SMALL, add_tokenizer, file_contents, read_json, save_dense, tensor_digests, tensor_sizes
from transformers_lighttoken import compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.output import OutputError
from transformers_lighttoken.checkpoint.recut import recut_checkpoint
from transformers_lighttoken.checkpoint.source import SourceError

PREFIX = "embeddings.word_embeddings."


@pytest.fixture
def dense(dense: Path) -> Path:
    add_tokenizer(dense)
    return dense


def test_only_the_table_changes_and_the_original_is_not_needed(dense: Path, compressed: Path, output: Path) -> None:
    original = AutoModel.from_pretrained(dense)
    before = compression_report(compressed)
    shutil.rmtree(dense)
    report = recut_checkpoint(compressed, output, 45.0)
    assert report.stored_bytes < before.stored_bytes
    assert report.to_dict()["ratio_float32"] >= 45.0
    old, new = tensor_digests(compressed), tensor_digests(output)
    assert {name for name in old if old[name] != new.get(name)} <= {n for n in old if n.startswith(PREFIX)}
    assert sum(tensor_sizes(output)[name] for name in report.parts) == report.stored_bytes
    tokenizer_files = {name for name in file_contents(compressed) if name not in ("config.json", "model.safetensors")}
    assert {name: file_contents(output)[name] for name in tokenizer_files} == {
        name: file_contents(compressed)[name] for name in tokenizer_files
    }
    model = AutoModel.from_pretrained(output)
    table = model.get_input_embeddings().table
    assert table.plan.ratio == report.to_dict()["ratio_float32"]
    measured = compression_report(output, original)
    assert measured.to_dict()["relative_error"] < 1.0


def test_errors_against_the_original_are_not_made_up(compressed: Path, output: Path) -> None:
    facts = recut_checkpoint(compressed, output, 45.0).to_dict()
    assert facts["relative_error"] is None
    assert facts["cosine_mean"] is None
    provenance = read_json(output / "config.json")["quantization_config"]["provenance"]
    assert provenance["recut_from"] == read_json(compressed / "config.json")["quantization_config"]["digest"]
    (table,) = provenance["tables"].values()
    assert table["cut_from"]["ratio"] == compression_report(compressed).to_dict()["ratio_float32"]


def test_a_cut_can_be_cut_again(compressed: Path, output: Path, tmp_path: Path) -> None:
    recut_checkpoint(compressed, output, 40.0)
    again = recut_checkpoint(output, tmp_path / "again", 50.0)
    assert again.to_dict()["ratio_float32"] >= 50.0
    AutoModel.from_pretrained(tmp_path / "again")


def test_a_tied_head_still_shares_the_table(tmp_path: Path, output: Path) -> None:
    save_dense(tmp_path / "llama", "llama-tied")
    compress_checkpoint(tmp_path / "llama", tmp_path / "compressed", SMALL)
    report = recut_checkpoint(tmp_path / "compressed", output, 45.0)
    assert report.tables[0].shared_heads == ("lm_head",)
    model = LlamaForCausalLM.from_pretrained(output)
    dense = LlamaForCausalLM.from_pretrained(output).dequantize()
    ids = torch.arange(12).view(1, 12)
    torch.testing.assert_close(model(ids).logits, dense(ids).logits, rtol=1e-5, atol=1e-5)


def test_refusals_leave_nothing(dense: Path, compressed: Path, output: Path) -> None:
    present = compression_report(compressed).to_dict()["ratio_float32"]
    with pytest.raises(ValueError, match=rf"ratio must be greater than {present:.4g}, .* got 5: recut only makes"):
        recut_checkpoint(compressed, output, 5.0)
    with pytest.raises(ValueError, match="ask for at most"):
        recut_checkpoint(compressed, output, 5000.0)
    with pytest.raises(SourceError, match="is not compressed with LightToken, but dense"):
        recut_checkpoint(dense, output, 45.0)
    with pytest.raises(OutputError):
        recut_checkpoint(compressed, compressed, 45.0)
    assert not output.exists()
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
