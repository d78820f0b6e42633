"""Compressing a checkpoint on disk: what changes, and what does not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel, LlamaForCausalLM

from tests.checkpoints import (
    SMALL,
    add_tokenizer,
    as_float32,
    file_contents,
    raw_tensors,
    read_json,
    save_dense,
    tensor_digests,
    tensor_sizes,
    write_config,
)
from tests.tiny_models import VOCAB
from transformers_lighttoken import LightTokenConfig, compress_model
from transformers_lighttoken.checkpoint.compress import compress_checkpoint

PREFIX = "embeddings.word_embeddings"
TABLE = f"{PREFIX}.weight"
WITH_EXACT_ROWS = LightTokenConfig(compression_ratio=2, code_bits=8)  # a budget in which a few rows fit


def without_table(digests: dict[str, str], prefix: str = PREFIX) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if not name.startswith(f"{prefix}.")}


def test_every_other_tensor_is_copied_byte_for_byte(dense: Path, output: Path) -> None:
    report = compress_checkpoint(dense, output, SMALL)
    before, after = tensor_digests(dense), tensor_digests(output)
    assert without_table(before) == without_table(after)
    ours = after.keys() - before.keys()
    assert {f"{PREFIX}.{name}" for name in report.tables[0].plan.tensor_specs()} == ours
    assert raw_tensors(output / "model.safetensors")[2] == {"format": "pt"}
    header, data, _ = raw_tensors(output / "model.safetensors")
    assert header[TABLE]["shape"] == [0]  # the sentinel that stops a loader without this package
    assert data[TABLE] == b""


def test_config_keeps_every_key_and_its_order(dense: Path, output: Path) -> None:
    write_config(dense, _name_or_path="org/base", my_own_key={"b": 1, "a": [1e-12, "\u00fc"]})
    compress_checkpoint(dense, output, SMALL)
    before, after = read_json(dense / "config.json"), read_json(output / "config.json")
    quantization = after.pop("quantization_config")
    assert list(after.items()) == list(before.items())
    assert quantization["quant_method"] == "lighttoken"
    assert quantization["format_version"] == 1
    assert quantization["code_bits"] == 8
    assert list(quantization["tables"]) == [PREFIX]
    assert "source" not in quantization["provenance"]  # no path of this machine


def test_other_files_come_along_and_other_weights_do_not(dense: Path, output: Path) -> None:
    add_tokenizer(dense)
    extra = {"README.md": b"card", "LICENSE": b"text", "1_Pooling/config.json": b"{}", "modules.json": b"[]"}
    left = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "tf_model.h5": b"x", "model-q4.gguf": b"x"}
    for name, content in {**extra, **left}.items():
        (dense / name).parent.mkdir(exist_ok=True)
        (dense / name).write_bytes(content)
    compress_checkpoint(dense, output, SMALL)
    before, after = file_contents(dense), file_contents(output)
    assert before.keys() - after.keys() == left.keys()
    assert after.keys() <= before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"config.json", "model.safetensors"}


def test_links_as_in_the_hub_cache_are_followed(dense: Path, output: Path, tmp_path: Path) -> None:
    add_tokenizer(dense)
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in dense.iterdir():
        (linked / path.name).symlink_to(path)
    compress_checkpoint(linked, output, SMALL)
    compress_checkpoint(dense, tmp_path / "direct", SMALL)
    assert file_contents(output) == file_contents(tmp_path / "direct")
    assert not any(path.is_symlink() for path in output.rglob("*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_same_tensors_as_compressing_the_model(dense: Path, output: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    AutoModel.from_pretrained(dense).to(dtype).save_pretrained(dense)
    add_tokenizer(dense)
    metric = "auto" if dtype == torch.float32 else "plain"  # files are measured in float32, a model in its own dtype
    config = LightTokenConfig(compression_ratio=2, code_bits=8, metric=metric)
    report = compress_checkpoint(dense, output, config)
    assert report.tables[0].plan.num_exact > 0
    compress_model(AutoModel.from_pretrained(dense), config).save_pretrained(tmp_path / "saved")
    ours = {name: digest for name, digest in tensor_digests(output).items() if name != TABLE}
    theirs = {name: digest for name, digest in tensor_digests(tmp_path / "saved").items() if name != TABLE}
    assert ours == theirs
    assert report.digest == read_json(tmp_path / "saved" / "config.json")["quantization_config"]["digest"]
    assert report.tables[0].source_dtype == str(dtype).removeprefix("torch.")
    assert AutoModel.from_pretrained(output).dtype == dtype


def test_the_dtype_is_found_where_config_json_names_none(dense: Path, output: Path) -> None:
    AutoModel.from_pretrained(dense).half().save_pretrained(dense)
    write_config(dense, dtype=None)
    compress_checkpoint(dense, output, SMALL)
    assert AutoModel.from_pretrained(dense).dtype == AutoModel.from_pretrained(output).dtype == torch.float16


def test_same_input_same_bytes(dense: Path, output: Path, tmp_path: Path) -> None:
    compress_checkpoint(dense, output, SMALL)
    compress_checkpoint(dense, tmp_path / "again", SMALL)
    assert file_contents(output) == file_contents(tmp_path / "again")


def test_report_counts_what_the_files_hold(dense: Path, output: Path) -> None:
    report = compress_checkpoint(dense, output, SMALL)
    before, after = tensor_sizes(dense), tensor_sizes(output)
    assert report.parts == {name: size for name, size in after.items() if name.startswith(PREFIX) and name != TABLE}
    assert report.stored_bytes == sum(report.parts.values())
    assert report.model_bytes == sum(after.values())
    assert report.model_bytes_dense == sum(before.values())


def test_shards(dense: Path, output: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModel.from_pretrained(dense).save_pretrained(sharded, max_shard_size="30KB")
    compress_checkpoint(sharded, output, SMALL)
    old, new = (read_json(folder / "model.safetensors.index.json") for folder in (sharded, output))
    assert without_table(tensor_digests(output)) == without_table(tensor_digests(sharded))
    for name, file in new["weight_map"].items():
        assert name in raw_tensors(output / file)[0]
    assert sorted(new["weight_map"]) == sorted(tensor_digests(output))
    home = old["weight_map"][TABLE]
    assert {file for name, file in new["weight_map"].items() if name.startswith(PREFIX)} == {home}
    assert new["metadata"]["total_size"] == sum(tensor_sizes(output).values())
    model = AutoModel.from_pretrained(output)
    assert new["metadata"]["total_parameters"] == model.num_parameters()
    for file in set(old["weight_map"].values()) - {home}:
        assert (output / file).read_bytes() == (sharded / file).read_bytes()


def test_tied_weights_stored_twice_are_dropped_or_kept_as_the_policy_says(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied")
    state = load_file(tmp_path / "dense" / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    before = tensor_digests(tmp_path / "dense")
    share = compress_checkpoint(tmp_path / "dense", tmp_path / "share", SMALL)
    assert "lm_head.weight" not in tensor_digests(tmp_path / "share")
    assert share.tables[0].shared_heads == ("lm_head",)
    config = LightTokenConfig(code_bits=8, tie_policy="dense")
    kept = compress_checkpoint(tmp_path / "dense", tmp_path / "kept", config)
    assert tensor_digests(tmp_path / "kept")["lm_head.weight"] == before["lm_head.weight"]
    assert kept.tables[0].dense_heads == ("lm_head",)
    assert kept.to_dict()["dense_head_bytes"] == kept.model_bytes - share.model_bytes == VOCAB * 32 * 4


def test_a_dense_head_is_stored_where_the_source_stored_the_table_alone(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied", max_shard_size="30KB")
    config = LightTokenConfig(code_bits=8, tie_policy="dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "output", config)
    head = tensor_digests(tmp_path / "output")["lm_head.weight"]
    assert head == tensor_digests(tmp_path / "dense")["model.embed_tokens.weight"]
    index = read_json(tmp_path / "output" / "model.safetensors.index.json")
    assert index["weight_map"]["lm_head.weight"] == index["weight_map"]["model.embed_tokens.codes"]
    model = LlamaForCausalLM.from_pretrained(tmp_path / "output")
    assert index["metadata"]["total_parameters"] == model.num_parameters()
    assert torch.equal(model.lm_head.weight, LlamaForCausalLM.from_pretrained(tmp_path / "dense").lm_head.weight)


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama")
    report = compress_checkpoint(tmp_path / "dense", tmp_path / "output", SMALL)
    before, after = tensor_digests(tmp_path / "dense"), tensor_digests(tmp_path / "output")
    assert after["lm_head.weight"] == before["lm_head.weight"]
    assert (report.tables[0].shared_heads, report.tables[0].dense_heads) == ((), ())


def test_a_table_in_float64_is_coded_from_its_float32_values(dense: Path, output: Path) -> None:
    state = load_file(dense / "model.safetensors")
    state[TABLE] = state[TABLE].double()
    save_file(state, dense / "model.safetensors", {"format": "pt"})
    add_tokenizer(dense)
    report = compress_checkpoint(dense, output, WITH_EXACT_ROWS)
    assert report.tables[0].source_dtype == "float64"
    assert report.tables[0].plan.exact_dtype == "float32"
    facts = report.to_dict()
    assert facts["ratio_source_dtype"] == 2 * facts["ratio_float32"]


def test_exact_rows_are_the_rows_of_special_tokens(dense: Path, output: Path) -> None:
    add_tokenizer(dense)
    compress_checkpoint(dense, output, WITH_EXACT_ROWS)
    header, data, _ = raw_tensors(output / "model.safetensors")
    shape = header[f"{PREFIX}.exact_rows"]["shape"]
    rows = as_float32(data[f"{PREFIX}.exact_rows"], shape)
    table = as_float32(raw_tensors(dense / "model.safetensors")[1][TABLE], [VOCAB, 32])
    assert len(rows) == 5
    places = [np.flatnonzero((table == row).all(axis=1)) for row in rows]
    assert all(len(place) == 1 for place in places)
    assert {int(place[0]) for place in places} <= {1, 2, 3, 4, 5}  # [PAD] [UNK] [CLS] [SEP] [MASK], not [unused0]


def test_pytorch_files_alone_are_converted(dense: Path, output: Path, tmp_path: Path) -> None:
    expected = compress_checkpoint(dense, tmp_path / "expected", SMALL)
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    report = compress_checkpoint(dense, output, SMALL)
    assert report == expected
    assert tensor_digests(output) == tensor_digests(tmp_path / "expected")
    configs = [read_json(folder / "config.json") for folder in (output, tmp_path / "expected")]
    digests = [config["quantization_config"]["provenance"].pop("source_digest") for config in configs]
    assert configs[0] == configs[1]
    assert digests[0] != digests[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "expected", "output"]


def test_what_the_table_was_made_from_is_recorded(dense: Path, output: Path) -> None:
    add_tokenizer(dense)
    passages = ["word1 word2 word3", "word4 word5"]
    frequencies = torch.arange(VOCAB, dtype=torch.float64)
    report = compress_checkpoint(dense, output, SMALL, calibration=passages, frequencies=frequencies)
    provenance = read_json(output / "config.json")["quantization_config"]["provenance"]
    assert provenance["calibration"] == "sha256:" + hashlib.sha256("\n".join(passages).encode()).hexdigest()
    assert provenance["frequencies"].startswith("sha256:")
    assert provenance["device"] == "cpu"
    assert provenance["versions"]["torch"] == torch.__version__
    recorded = provenance["tables"][PREFIX]
    assert recorded["measured_on"] == "text"
    assert (recorded["source_dtype"], recorded["keys"]) == ("float32", [TABLE])
    assert recorded["relative_error"] == report.tables[0].relative_error
    assert sum(recorded["cosine_histogram"]["counts"]) == VOCAB


def test_the_model_is_not_loaded_where_it_is_not_measured(
    dense: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tokenizer(dense)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(BertModel, "from_pretrained", refuse)
    plain = LightTokenConfig(code_bits=8, metric="plain")
    compress_checkpoint(dense, output, plain)
    with pytest.raises(AssertionError, match="the model was loaded"):
        compress_checkpoint(dense, output.parent / "measured", SMALL)


def test_progress_is_told_to_the_end(dense: Path, output: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    compress_checkpoint(dense, output, SMALL, progress=lambda *step: steps.append(step))
    last = {what: (done, total) for what, done, total in steps}
    assert all(done == total for done, total in last.values())
    assert list(last) == ["refinement rounds", "writing (MiB)"]
