"""Back to an ordinary dense checkpoint."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForMaskedLM, LlamaForCausalLM

from tests.checkpoints import (
    SMALL,
    add_tokenizer,
    file_contents,
    read_json,
    save_dense,
    tensor_digests,
    tensor_sizes,
    write_config,
)
from tests.tiny_models import VOCAB
from transformers_lighttoken import LightTokenConfig, compress_model
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.compressed import read_compressed
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint
from transformers_lighttoken.checkpoint.output import OutputError
from transformers_lighttoken.checkpoint.source import SourceError
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError

TABLE = "embeddings.word_embeddings.weight"
DENSE_POLICY = LightTokenConfig(code_bits=8, tie_policy="dense")


@pytest.fixture
def dense(dense: Path) -> Path:
    add_tokenizer(dense)
    return dense


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_only_the_table_differs_from_the_source(dense: Path, compressed: Path, tmp_path: Path) -> None:
    tables = decompress_checkpoint(compressed, tmp_path / "again")
    assert changed(tensor_digests(dense), tensor_digests(tmp_path / "again")) == {TABLE}
    before, after = file_contents(dense), file_contents(tmp_path / "again")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {"model.safetensors", "config.json"}
    assert read_json(dense / "config.json") == read_json(tmp_path / "again" / "config.json")
    (table,) = tables.values()
    assert (table.keys, table.shape, table.dtype) == ((TABLE,), (VOCAB, 32), "float32")
    weight = load_file(tmp_path / "again" / "model.safetensors")[TABLE]
    assert torch.equal(weight, read_compressed(compressed).tables[0].load().decode_all())


def test_loads_without_the_plugin(compressed: Path, tmp_path: Path) -> None:
    decompress_checkpoint(compressed, tmp_path / "again")
    code = """
        import sys, torch
        from transformers import AutoModel
        model, info = AutoModel.from_pretrained(sys.argv[1], output_loading_info=True)
        assert "transformers_lighttoken" not in sys.modules
        assert not any(info.values()), info
        ids = torch.arange(10).view(1, 10)
        torch.save(model(ids).last_hidden_state.detach(), sys.argv[2])
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", lines, tmp_path / "again", tmp_path / "plain.pt"], check=True, timeout=240)
    with torch.no_grad():
        ours = AutoModel.from_pretrained(compressed)(torch.arange(10).view(1, 10)).last_hidden_state
    assert float((ours - torch.load(tmp_path / "plain.pt")).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_table_has_the_dtype_of_the_source(dense: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    state = load_file(dense / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in state.items()}, dense / "model.safetensors", {"format": "pt"})
    compress_checkpoint(dense, tmp_path / "compressed", SMALL)
    (table,) = decompress_checkpoint(tmp_path / "compressed", tmp_path / "again").values()
    assert table.dtype == str(dtype).removeprefix("torch.")
    assert changed(tensor_digests(dense), tensor_digests(tmp_path / "again")) == {TABLE}
    assert tensor_sizes(dense) == tensor_sizes(tmp_path / "again")


def test_a_checkpoint_that_was_cast_since_gives_its_new_dtype(compressed: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(compressed, dtype=torch.bfloat16).save_pretrained(tmp_path / "cast")
    (table,) = decompress_checkpoint(tmp_path / "cast", tmp_path / "again").values()
    assert table.dtype == "bfloat16"


def test_what_save_pretrained_wrote_can_be_decompressed(dense: Path, tmp_path: Path) -> None:
    model = compress_model(AutoModel.from_pretrained(dense), SMALL)
    model.save_pretrained(tmp_path / "saved")
    decompress_checkpoint(tmp_path / "saved", tmp_path / "again")
    assert changed(tensor_digests(dense), tensor_digests(tmp_path / "again")) == {TABLE}
    assert not hasattr(AutoModel.from_pretrained(tmp_path / "again").config, "quantization_config")


def test_saved_by_a_class_with_another_prefix(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "bert-mlm")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
    AutoModel.from_pretrained(tmp_path / "compressed").save_pretrained(tmp_path / "base_model")
    decompress_checkpoint(tmp_path / "base_model", tmp_path / "again")
    digests = tensor_digests(tmp_path / "again")
    assert TABLE in digests
    assert not any(name.startswith("bert.") for name in digests)


def test_shards(dense: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModel.from_pretrained(dense).save_pretrained(sharded, max_shard_size="30KB")
    compress_checkpoint(sharded, tmp_path / "compressed", SMALL)
    decompress_checkpoint(tmp_path / "compressed", tmp_path / "again")
    assert changed(tensor_digests(sharded), tensor_digests(tmp_path / "again")) == {TABLE}
    index = "model.safetensors.index.json"
    assert read_json(sharded / index) == read_json(tmp_path / "again" / index)


def test_tied_weights_are_stored_as_often_as_the_source_did(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied")
    state = load_file(tmp_path / "dense" / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
    decompress_checkpoint(tmp_path / "compressed", tmp_path / "again")
    after = tensor_digests(tmp_path / "again")
    both = {"lm_head.weight", "model.embed_tokens.weight"}
    assert changed(tensor_digests(tmp_path / "dense"), after) == both
    assert len({after[name] for name in both}) == 1
    model = LlamaForCausalLM.from_pretrained(tmp_path / "again")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_head_that_was_kept_dense_stays_as_it_is(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "bert-mlm")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", DENSE_POLICY)
    decompress_checkpoint(tmp_path / "compressed", tmp_path / "again")
    before, after = tensor_digests(tmp_path / "dense"), tensor_digests(tmp_path / "again")
    assert after["cls.predictions.decoder.weight"] == before["bert.embeddings.word_embeddings.weight"]
    plain, ours = (BertForMaskedLM.from_pretrained(tmp_path / name).eval() for name in ("again", "compressed"))
    ids = torch.arange(10).view(1, 10)
    with torch.no_grad():
        assert float((plain(ids).logits - ours(ids).logits).abs().max()) < 1e-4


def test_what_cannot_be_decompressed_is_told(dense: Path, compressed: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        decompress_checkpoint(tmp_path / "nowhere", tmp_path / "again")
    with pytest.raises(SourceError, match="is not compressed with LightToken, but dense"):
        decompress_checkpoint(dense, tmp_path / "again")
    with pytest.raises(OutputError, match="is not empty"):
        decompress_checkpoint(compressed, dense)
    write_config(dense, quantization_config={"quant_method": "awq"})
    with pytest.raises(SourceError, match="but quantized with 'awq'"):
        decompress_checkpoint(dense, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_damaged_checkpoint_is_told(compressed: Path, tmp_path: Path) -> None:
    config = read_json(compressed / "config.json")
    quantization = config["quantization_config"]
    for fields, told in (
        ({"format_version": 2, "plugin_version": "7.0"}, "format_version 2.*>=7.0"),
        ({"tables": {}}, "names no tables"),
        ({"surprise": 1}, "surprise"),
    ):
        write_config(compressed, quantization_config={**quantization, **fields})
        with pytest.raises(LightTokenCheckpointError, match=told):
            decompress_checkpoint(compressed, tmp_path / "again")
    write_config(compressed, quantization_config=quantization)
    path = compressed / "model.safetensors"
    codes = read_compressed(compressed).tables[0].tensors["codes"]
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    content[codes.start] ^= 1
    path.write_bytes(content.tobytes())
    with pytest.raises(LightTokenCheckpointError, match="digest"):
        decompress_checkpoint(compressed, tmp_path / "again")
    assert not (tmp_path / "again").exists()
