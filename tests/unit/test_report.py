"""CompressionReport: bytes of what is stored, errors where they were measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, LlamaForCausalLM

from tests.checkpoints import SMALL, as_float32, raw_tensors, read_json, save_dense, tensor_sizes, write_config
from tests.tiny_models import VOCAB
from transformers_lighttoken import LightTokenConfig, compress_model, compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.config import TiePolicy
from transformers_lighttoken.report.facts import CompressionReport, TableReport, format_bytes

TABLE = "embeddings.word_embeddings.weight"
ERRORS = ("relative_error", "cosine_mean", "cosine_p01")


def without_provenance(folder: Path) -> None:
    quantization = read_json(folder / "config.json")["quantization_config"]
    del quantization["provenance"]
    write_config(folder, quantization_config=quantization)


def errors_by_numpy(dense: Path, compressed: Path) -> tuple[float, float, float]:
    """The errors, straight from their definitions."""
    header, data, _ = raw_tensors(dense / "model.safetensors")
    original = as_float32(data[TABLE], header[TABLE]["shape"]).astype(np.float64)
    embedding = AutoModel.from_pretrained(compressed).get_input_embeddings()
    decoded = embedding(torch.arange(VOCAB)).detach().double().numpy()
    padding = 1  # nn.Embedding starts with zeros there
    assert not original[padding].any()
    cosines = np.zeros(VOCAB)
    for row in range(VOCAB):
        norm = np.linalg.norm(original[row]) * np.linalg.norm(decoded[row])
        cosines[row] = original[row] @ decoded[row] / norm if norm else float(not decoded[row].any())
    error = ((original - decoded) ** 2).sum() / (original**2).sum()
    return float(error), float(cosines.mean()), float(np.percentile(cosines, 1))


def test_errors_are_those_of_the_definitions(dense: Path, compressed: Path) -> None:
    facts = compression_report(compressed, dense).to_dict()
    assert [facts[name] for name in ERRORS] == pytest.approx(errors_by_numpy(dense, compressed), rel=1e-6)
    assert 0.1 < facts["relative_error"] < 0.9


def test_recorded_errors_are_those_that_would_be_measured(dense: Path, compressed: Path) -> None:
    recorded, measured = compression_report(compressed).to_dict(), compression_report(compressed, dense).to_dict()
    for name in ERRORS:
        assert recorded.pop(name) == pytest.approx(measured.pop(name), rel=1e-9)
    assert [{**table, **dict.fromkeys(ERRORS)} for table in recorded.pop("tables")] == [
        {**table, **dict.fromkeys(ERRORS)} for table in measured.pop("tables")
    ]
    assert recorded == measured


@pytest.mark.parametrize("kind", ["folder", "model", "weight"])
def test_every_kind_of_original(dense: Path, compressed: Path, kind: str) -> None:
    original = {
        "folder": dense,
        "model": AutoModel.from_pretrained(dense),
        "weight": load_file(dense / "model.safetensors")[TABLE],
    }[kind]
    expected = compression_report(compressed).tables[0].relative_error
    for compressed_as in (compressed, AutoModel.from_pretrained(compressed)):
        report = compression_report(compressed_as, original)
        assert report.tables[0].relative_error == pytest.approx(expected, rel=1e-6)


def test_an_error_that_was_not_measured_is_absent(dense: Path, compressed: Path) -> None:
    without_provenance(compressed)
    report = compression_report(compressed)
    assert [report.to_dict()[name] for name in ERRORS] == [None] * 3
    assert "fidelity" not in str(report)
    assert compression_report(compressed, dense).tables[0].relative_error is not None


def test_a_metric_that_could_not_be_measured_is_told(compressed: Path) -> None:
    config = read_json(compressed / "config.json")
    assert "metric    plain" not in str(compression_report(compressed))
    (recorded,) = config["quantization_config"]["provenance"]["tables"].values()
    recorded["measured_on"] = "dropped"
    write_config(compressed, **config)
    report = compression_report(compressed)
    assert report.to_dict()["measured_on"] == "dropped"
    assert "metric    plain: the model does not run on token ids alone" in str(report)


def test_a_recorded_error_is_dropped_once_the_table_has_changed(compressed: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(compressed)
    assert compression_report(model).tables[0].relative_error is not None
    model.save_pretrained(tmp_path / "same")
    assert compression_report(tmp_path / "same").tables[0].relative_error is not None
    model.get_input_embeddings().codes[0] ^= 255
    assert compression_report(model).tables[0].relative_error is None
    model.save_pretrained(tmp_path / "changed")
    assert compression_report(tmp_path / "changed").tables[0].relative_error is None


@pytest.mark.parametrize("architecture", ["bert", "bert-mlm", "llama", "llama-tied", "t5"])
@pytest.mark.parametrize("tie_policy", ["share", "dense"])
def test_of_a_model_in_memory_and_of_its_folder(tmp_path: Path, architecture: str, tie_policy: TiePolicy) -> None:
    model = save_dense(tmp_path / "dense", architecture)
    compress_model(model, LightTokenConfig(code_bits=8, tie_policy=tie_policy))
    in_memory = compression_report(model)
    model.save_pretrained(tmp_path / "saved")
    on_disk = compression_report(tmp_path / "saved")
    assert in_memory == on_disk
    assert in_memory.model_bytes == sum(tensor_sizes(tmp_path / "saved").values())
    assert in_memory.model_bytes_dense == sum(tensor_sizes(tmp_path / "dense").values())


def test_tied_heads(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied")
    compress_checkpoint(tmp_path / "dense", tmp_path / "share", SMALL)
    compress_checkpoint(tmp_path / "dense", tmp_path / "dense_head", LightTokenConfig(code_bits=8, tie_policy="dense"))
    share, dense = compression_report(tmp_path / "share"), compression_report(tmp_path / "dense_head")
    assert (share.tables[0].shared_heads, share.tables[0].dense_heads) == (("lm_head",), ())
    assert (dense.tables[0].shared_heads, dense.tables[0].dense_heads) == ((), ("lm_head",))
    assert (share.tie_policy, dense.tie_policy) == ("share", "dense")
    assert share.to_dict()["dense_head_bytes"] == 0
    assert dense.to_dict()["dense_head_bytes"] == VOCAB * 32 * 4
    assert share.model_bytes_dense == dense.model_bytes_dense == sum(tensor_sizes(tmp_path / "dense").values())
    assert "lm_head uses the same codes" in str(share)
    assert "lm_head kept dense, which costs 20.5 kB" in str(dense)
    assert dense.to_dict()["model_ratio"] < 1 < share.to_dict()["model_ratio"]


def test_ratios_of_a_half_precision_source(dense: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(dense).half().save_pretrained(tmp_path / "half")
    facts = compress_checkpoint(tmp_path / "half", tmp_path / "compressed", SMALL).to_dict()
    assert facts["source_dtype"] == "float16"
    assert facts["dense_bytes_float32"] == VOCAB * 32 * 4
    assert facts["dense_bytes_source_dtype"] == VOCAB * 32 * 2
    assert facts["ratio_float32"] == VOCAB * 32 * 4 / facts["stored_bytes"]
    assert facts["ratio_source_dtype"] == facts["ratio_float32"] / 2


def test_json_has_the_promised_keys(compressed: Path) -> None:
    facts = compression_report(compressed).to_dict()
    promised = (
        "stored_bytes dense_bytes_float32 ratio_float32 ratio_source_dtype model_ratio relative_error cosine_mean "
        "cosine_p01 rank code_bits parts num_embeddings embedding_dim source_dtype model_bytes model_bytes_dense "
        "digest seed versions plugin_version format_version"
    ).split()
    assert [name for name in promised if facts.get(name) is None] == []
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert (facts["num_embeddings"], facts["embedding_dim"], facts["code_bits"], facts["rank"]) == (VOCAB, 32, 8, 0)


def test_text_is_for_people(compressed: Path) -> None:
    report = compression_report(compressed)
    text = str(report)
    assert text.splitlines()[0] == f"embeddings.word_embeddings: {VOCAB} x 32 float32"
    assert f"{report.stored_bytes} bytes" in text
    assert f"{report.to_dict()['ratio_float32']:.2f} times smaller than float32" in text
    assert f"relative error {report.tables[0].relative_error:.4f}" in text
    assert all(len(line) < 120 for line in text.splitlines())


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_874_000, "1.9 MB"), (2_500_000_000, "2.5 GB")],
)
def test_bytes_for_people(count: int, shown: str) -> None:
    assert format_bytes(count) == shown


def test_several_tables_are_summed_and_what_differs_is_absent(compressed: Path) -> None:
    first = compression_report(compressed)
    table = first.tables[0]
    second = TableReport("other", table.plan, "float16", {"other.codes": 1000}, relative_error=0.5)
    report = CompressionReport((table, second), 500_000, None, 0, "refined", "share", 1, "0.1.0", {})
    facts = report.to_dict()
    assert facts["stored_bytes"] == table.stored_bytes + 1000 == sum(facts["parts"].values())
    assert facts["dense_bytes_float32"] == 2 * VOCAB * 32 * 4
    assert facts["dense_bytes_source_dtype"] == VOCAB * 32 * 4 + VOCAB * 32 * 2
    assert facts["ratio_float32"] == facts["dense_bytes_float32"] / facts["stored_bytes"]
    assert facts["relative_error"] is None
    assert facts["source_dtype"] is None
    assert facts["code_bits"] == 8
    assert [entry["relative_error"] for entry in facts["tables"]] == [table.relative_error, 0.5]
    assert facts["model_bytes_dense"] == 500_000 - facts["stored_bytes"] + facts["dense_bytes_source_dtype"]


def test_what_has_no_report_is_told(dense: Path, compressed: Path) -> None:
    with pytest.raises(ValueError, match="BertModel has no compressed table"):
        compression_report(AutoModel.from_pretrained(dense))
    with pytest.raises(ValueError, match="is not compressed with LightToken, but dense"):
        compression_report(dense)
    with pytest.raises(TypeError, match="a transformers model or a folder, got int"):
        compression_report(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="shape"):
        compression_report(compressed, torch.ones(3, 3))


def test_an_original_that_does_not_fit_is_told(compressed: Path, tmp_path: Path) -> None:
    save_dense(tmp_path / "other", "llama")
    for original in (tmp_path / "other", LlamaForCausalLM.from_pretrained(tmp_path / "other"), compressed):
        with pytest.raises(ValueError, match="original holds no dense table 'embeddings.word_embeddings'"):
            compression_report(compressed, original)
