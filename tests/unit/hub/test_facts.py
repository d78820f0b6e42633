"""Facts from a checkpoint on disk: sizes in float32, histogram, loading, recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from tests.checkpoints import SMALL, add_tokenizer, read_json, save_dense, write_config
from tests.unit.hub.example import example_facts
from transformers_lighttoken import LightTokenConfig, compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.compressed import read_compressed
from transformers_lighttoken.checkpoint.files import list_files
from transformers_lighttoken.coding.table import digest_of
from transformers_lighttoken.hub.facts import CardFacts, CardWishes, gather_facts
from transformers_lighttoken.hub.loading import Loading, how_to_load
from transformers_lighttoken.hub.recipe import command, config_as_json

TABLE = "embeddings.word_embeddings"


def gather(folder: Path, **wishes: Any) -> CardFacts:
    checkpoint, report = read_compressed(folder), compression_report(folder)
    wanted = CardWishes(license="mit", **wishes)
    return gather_facts(HfApi(), checkpoint, report, "a/b", wanted, files=list_files(folder))


def compress(tmp_path: Path, architecture: str = "bert", config: LightTokenConfig = SMALL, **options: Any) -> Path:
    save_dense(tmp_path / "dense", architecture, **options)
    add_tokenizer(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", config)
    return tmp_path / "compressed"


class TestModelBytesFloat32:
    def dense_bytes(self, tmp_path: Path) -> int:
        tensors = load_file(tmp_path / "dense" / "model.safetensors").values()
        return sum(tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size()) for tensor in tensors)

    def test_float32_source(self, tmp_path: Path):
        facts = gather(compress(tmp_path))
        assert facts.model_bytes_float32 == self.dense_bytes(tmp_path) == facts.report.model_bytes_dense

    def test_half_precision_source(self, tmp_path: Path):
        save_dense(tmp_path / "dense").to(torch.bfloat16).save_pretrained(tmp_path / "dense")  # pyright: ignore
        compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
        facts = gather(tmp_path / "compressed")
        assert facts.model_bytes_float32 == self.dense_bytes(tmp_path) > 1.9 * facts.report.model_bytes_dense

    @pytest.mark.parametrize("policy", ["share", "dense"])
    def test_tied_head(self, tmp_path: Path, policy: Any):
        config = LightTokenConfig(code_bits=8, tie_policy=policy)
        facts = gather(compress(tmp_path, "bert-mlm", config))
        assert facts.model_bytes_float32 == self.dense_bytes(tmp_path)


class TestHistogram:
    def test_is_the_recorded_one(self, tmp_path: Path):
        folder = compress(tmp_path)
        histogram = gather(folder).cosine_histogram
        recorded = read_json(folder / "config.json")["quantization_config"]["provenance"]["tables"][TABLE]
        assert histogram is not None
        assert list(histogram.counts) == recorded["cosine_histogram"]["counts"]
        assert (sum(histogram.counts), histogram.mean) == (160, recorded["cosine_mean"])

    @pytest.mark.parametrize(
        "damaged",
        [None, {}, [], {"edges": [0, 1], "counts": [159]}, {"edges": [1, 0], "counts": [160]},
         {"edges": [0, 1, 2], "counts": [160, 0]}, {"edges": ["a", 1], "counts": [160]}, {"edges": [0.5], "counts": []},
         {"edges": [0, 0.5, 1], "counts": [161, -1]}, {"edges": [0, 1, 0.5], "counts": [160]}],
    )  # fmt: skip
    def test_a_damaged_one_is_left_out(self, tmp_path: Path, damaged: Any):
        folder = compress(tmp_path)
        quantization = read_json(folder / "config.json")["quantization_config"]
        quantization["provenance"]["tables"][TABLE]["cosine_histogram"] = damaged
        write_config(folder, quantization_config=quantization)
        assert gather(folder).cosine_histogram is None

    def test_of_a_table_that_has_changed_since_is_left_out(self, tmp_path: Path):
        folder = compress(tmp_path)
        tensors = load_file(folder / "model.safetensors")
        tensors[f"{TABLE}.codes"][0] ^= 1
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        quantization = read_json(folder / "config.json")["quantization_config"]
        names = LightTokenConfig(**quantization).plans()[TABLE].tensor_specs()
        quantization["digest"] = digest_of({f"{TABLE}.{name}": tensors[f"{TABLE}.{name}"] for name in names})
        write_config(folder, quantization_config=quantization)
        facts = gather(folder)
        assert facts.cosine_histogram is None
        assert facts.report.tables[0].cosine_mean is None


class TestLoading:
    @pytest.mark.parametrize(
        ("model_type", "architecture", "expected"),
        [
            ("bert", "BertModel", "AutoModel"),
            ("bert", "BertForMaskedLM", "AutoModelForMaskedLM"),
            ("bert", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
            ("bert", "BertForPreTraining", "AutoModelForPreTraining"),
            ("llama", "LlamaForCausalLM", "AutoModelForCausalLM"),
            ("t5", "T5ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
            ("t5", "T5EncoderModel", "AutoModelForTextEncoding"),
            ("whisper", "WhisperForConditionalGeneration", "AutoModelForSpeechSeq2Seq"),
            ("clip", "CLIPTextModelWithProjection", "CLIPTextModelWithProjection"),
            ("own", "OwnModel", "AutoModel"),
            ("bert", "os; import os", "AutoModel"),
            (None, None, "AutoModel"),
        ],
    )
    def test_class(self, model_type: Any, architecture: Any, expected: str):
        config = {"model_type": model_type, "architectures": [architecture]}
        assert how_to_load(config, []) == Loading(expected)

    def test_files(self):
        assert how_to_load({}, ["tokenizer.json", "modules.json"]) == Loading("AutoModel", True, True)
        assert how_to_load({"architectures": None}, ["1_Pooling/modules.json"]) == Loading()


class TestRecipe:
    def of(self, **fields: Any) -> CardFacts:
        fields["provenance"] = {"tables": {TABLE: {}}} | fields.get("provenance", {})
        return replace(example_facts(), config=LightTokenConfig(**fields))

    @pytest.mark.parametrize(
        ("fields", "options"),
        [
            ({}, "--ratio 25 --seed 0"),
            ({"compression_ratio": 50.5, "seed": 7}, "--ratio 50.5 --seed 7"),
            ({"code_bits": 64, "rank": 3}, "--code-bits 64 --seed 0 --rank 3"),
            (
                {"num_stages": 2, "alpha": 1.5, "solver": "paper", "tiers": "equal", "tie_policy": "dense"},
                "--ratio 25 --seed 0 --num-stages 2 --alpha 1.5 --solver paper --tiers equal --tie-policy dense",
            ),
            ({"modules_to_not_convert": ["a b"]}, "--ratio 25 --seed 0 --modules-to-not-convert 'a b'"),
            ({"provenance": {"frequencies": "sha256:1"}}, "--ratio 25 --seed 0 --frequencies FILE"),
            ({"provenance": {"calibration": "sha256:1"}}, "--ratio 25 --seed 0 --calibration FILE"),
            ({"metric": "plain", "provenance": {"device": "cuda"}}, "--ratio 25 --seed 0 --metric plain --device cuda"),
            ({"provenance": {"device": "mps; rm"}}, "--ratio 25 --seed 0"),
            ({"provenance": {"subfolder": "a b"}}, "--ratio 25 --seed 0 --subfolder 'a b'"),
        ],
    )
    def test_command(self, fields: dict[str, Any], options: str):
        name = "sentence-transformers/all-MiniLM-L6-v2"
        assert command(self.of(**fields)) == f"lighttoken compress {name} OUTPUT {options}"

    @pytest.mark.parametrize(
        "fields",
        [{"provenance": {"tables": {}}}, {"decoder_dtype": "float16"}, {"warm_start": "autoencoder"}],
    )
    def test_no_command_for_what_it_has_no_option_for(self, fields: dict[str, Any]):
        assert command(self.of(**fields)) is None

    def test_command_is_one_that_the_command_line_takes(self, tmp_path: Path):
        from typer.testing import CliRunner

        from transformers_lighttoken.cli import app

        folder = compress(tmp_path, config=LightTokenConfig(code_bits=8, num_stages=1, tiers="equal", metric="plain"))
        line = command(gather(folder))
        assert line == (
            "lighttoken compress SOURCE OUTPUT --code-bits 8 --seed 0 --num-stages 1 --tiers equal --metric plain "
            "--device cpu"
        )
        assert line is not None
        again = line.replace("SOURCE", str(tmp_path / "dense")).replace("OUTPUT", str(tmp_path / "again"))
        done = CliRunner().invoke(app, again.split()[1:])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    def test_config_has_what_was_asked_for(self):
        assert "compression_ratio" not in config_as_json(LightTokenConfig(code_bits=8))
        shown = config_as_json(example_facts().config)
        assert '"seed": 0' in shown
        for absent in ("digest", "tables", "provenance", "plugin_version"):
            assert absent not in shown
