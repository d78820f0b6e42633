"""What must not lie in the files of a compressed checkpoint, told by every way to read them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.checkpoints import SMALL, read_json, write_config
from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint
from transformers_lighttoken.config import TiePolicy
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError
from transformers_lighttoken.modeling.sites import owners

LLAMA = ARCHITECTURES["llama-tied"]
TABLE = "model.embed_tokens"


def save_compressed(folder: Path, tie_policy: TiePolicy = "share") -> Path:
    model = LLAMA.build()
    compress_at_random(model, tie_policy=tie_policy)
    model.save_pretrained(folder)
    return folder


def edit_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    stored = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {key: tensor for key, tensor in stored.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return save_compressed(tmp_path / "compressed")


@pytest.fixture(
    name="read",
    params=[LlamaForCausalLM.from_pretrained, compression_report, lambda folder: decompress_checkpoint(folder, "new")],
    ids=["from_pretrained", "inspect", "decompress"],
)
def _read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.chdir(tmp_path)
    return request.param


def test_a_dense_table_beside_the_compressed_one_is_refused(folder: Path, read: Callable) -> None:
    edit_tensors(folder, **{f"{TABLE}.weight": torch.ones(160, 32)})
    with pytest.raises(
        LightTokenCheckpointError, match=rf"'{TABLE}.weight' of shape \(160, 32\) beside the compressed"
    ):
        read(folder)


def test_a_missing_sentinel_is_told_and_comes_back_with_the_next_save(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_tensors(folder, **{f"{TABLE}.weight": None})
    with caplog.at_level(logging.WARNING, logger="transformers_lighttoken"):
        model = LlamaForCausalLM.from_pretrained(folder)
    assert f"model.safetensors lacks the empty tensor '{TABLE}.weight'" in caplog.text
    model.save_pretrained(folder)
    caplog.clear()
    assert torch.equal(LLAMA.run(LlamaForCausalLM.from_pretrained(folder)), LLAMA.run(model))
    assert "lacks" not in caplog.text


def test_a_dense_head_where_the_head_shares_the_table_is_refused(folder: Path, read: Callable) -> None:
    assert read_json(folder / "config.json")["quantization_config"]["shared_heads"] == {TABLE: ["lm_head"]}
    edit_tensors(folder, **{"lm_head.weight": torch.ones(160, 32)})
    with pytest.raises(
        LightTokenCheckpointError, match=r"holds 'lm_head.weight', but .* 'lm_head' shares the compressed"
    ):
        read(folder)


def test_a_head_that_is_dense_by_policy_or_by_its_values_still_loads(tmp_path: Path) -> None:
    dense = LlamaForCausalLM.from_pretrained(save_compressed(tmp_path / "by_policy", "dense"))
    assert isinstance(dense.lm_head, torch.nn.Linear)
    decompress_checkpoint(tmp_path / "by_policy", tmp_path / "different")  # head and table now differ
    compress_checkpoint(tmp_path / "different", tmp_path / "by_value", SMALL)
    stored = read_json(tmp_path / "by_value" / "config.json")["quantization_config"]
    assert (stored["tie_policy"], stored["shared_heads"]) == ("share", {TABLE: []})
    again = LlamaForCausalLM.from_pretrained(tmp_path / "by_value")
    assert torch.equal(again.lm_head.weight, dense.lm_head.weight)


@pytest.mark.parametrize("architecture", ["t5", "deberta-mlm", "bert-mlm", "llama"])
def test_disk_and_memory_record_the_same_shared_heads(architecture: str, tmp_path: Path) -> None:
    model = ARCHITECTURES[architecture].build()
    model.save_pretrained(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
    recorded = read_json(tmp_path / "compressed" / "config.json")["quantization_config"]["shared_heads"]
    loaded = type(model).from_pretrained(tmp_path / "compressed")
    loaded.save_pretrained(tmp_path / "again")
    assert read_json(tmp_path / "again" / "config.json")["quantization_config"]["shared_heads"] == recorded
    assert list(recorded) == list(owners(loaded))
    assert any(recorded.values()) == (architecture != "llama")


def test_other_files_than_safetensors_are_refused_with_the_remedy(folder: Path, read: Callable) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        LightTokenCheckpointError, match=r"pytorch_model.bin.*(save_file|save the model in this format)"
    ):
        read(folder)


def test_a_variant_loads_by_its_name_and_is_told_elsewhere(folder: Path, read: Callable, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "variant", variant="fp16")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "variant", variant="fp16")
    assert torch.equal(LLAMA.run(loaded), LLAMA.run(model))
    with pytest.raises((LightTokenCheckpointError, OSError), match=r"model.fp16.safetensors|no file named model.safet"):
        read(tmp_path / "variant")


def test_shared_heads_are_checked(folder: Path) -> None:
    quantization = read_json(folder / "config.json")["quantization_config"]
    write_config(folder, quantization_config={**quantization, "shared_heads": {TABLE: "lm_head"}})
    with pytest.raises(ValueError, match="shared_heads must map names of tables to lists"):
        compression_report(folder)
