"""Loading and saving through transformers."""

import importlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModel, BertModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import transformers_lighttoken
from tests.helpers import compress_at_random, stored_tensors_of
from tests.tiny_models import ARCHITECTURES
from tests.unit.modeling.saved_bert import MLM, SMALL, TABLE, load
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.modeling import quantizer as quantizer_module
from transformers_lighttoken.modeling.sites import owners


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_casts_rows_but_no_stored_integer(saved: Path, dtype: torch.dtype, tmp_path: Path) -> None:
    full, half = load(saved), load(saved, dtype=dtype)
    for name, buffer in owners(full)[TABLE].named_buffers():
        assert torch.equal(owners(half)[TABLE].get_buffer(name), buffer), name
    assert owners(half)[TABLE].exact_rows.dtype == dtype
    assert MLM.run(half).isfinite().all()
    half.save_pretrained(tmp_path)
    again = load(tmp_path, dtype="auto")
    assert owners(again)[TABLE].plan.exact_dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(MLM.run(again), MLM.run(half))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sources(dtype: torch.dtype, tmp_path: Path) -> None:
    model = MLM.build().to(dtype)
    compress_at_random(model)
    model.save_pretrained(tmp_path)
    assert stored_tensors_of(tmp_path)[f"{TABLE}.exact_rows"].dtype == dtype
    assert torch.equal(MLM.run(load(tmp_path)), MLM.run(model))


def test_shards_hold_the_same_tensors(saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    whole, parts = stored_tensors_of(saved), stored_tensors_of(tmp_path)
    assert set(parts) == set(whole)
    assert all(torch.equal(parts[key], whole[key]) for key in whole)
    assert torch.equal(MLM.run(load(tmp_path)), MLM.run(model))


def test_a_checkpoint_loads_for_other_tasks_and_back(saved: Path, tmp_path: Path) -> None:
    base = BertModel.from_pretrained(saved)
    assert list(owners(base)) == ["embeddings.word_embeddings"]
    base.save_pretrained(tmp_path / "base")
    classifier, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )
    assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]
    classifier.save_pretrained(tmp_path / "classifier")
    masked = load(tmp_path / "classifier")
    assert owners(masked)[TABLE].table.digest() == owners(load(saved))[TABLE].table.digest()
    assert masked.cls.predictions.decoder.owner is owners(masked)[TABLE]  # tied, as a dense checkpoint's would be


def test_auto_model_gets_the_rows_back(saved: Path) -> None:
    base = AutoModel.from_pretrained(saved)
    ids = torch.arange(160)
    assert torch.allclose(base.get_input_embeddings()(ids), owners(load(saved))[TABLE].table.decode_all(), atol=1e-6)


def test_a_model_part_without_the_table_loads_dense(tmp_path: Path) -> None:
    model = ARCHITECTURES["clip"].build()
    compress_at_random(model)
    model.save_pretrained(tmp_path / "clip")
    config = transformers.CLIPVisionConfig.from_pretrained(tmp_path / "clip")
    config.quantization_config = model.config.quantization_config.to_dict()
    vision = transformers.CLIPVisionModel.from_pretrained(tmp_path / "clip", config=config)
    assert not owners(vision)
    weight = "vision_model.post_layernorm.weight"
    assert torch.equal(vision.state_dict()[weight.removeprefix("vision_model.")], model.state_dict()[weight])


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(saved: Path, device_map: object) -> None:
    assert torch.allclose(MLM.run(load(saved, device_map=device_map)), MLM.run(load(saved)), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded")
@pytest.mark.parametrize("offload_buffers", [False, True])
def test_offloading_to_disk(offload_buffers: bool, tmp_path: Path) -> None:
    architecture = ARCHITECTURES["llama-tied"]
    model = architecture.build()
    compress_at_random(model, tiers=2)
    model.save_pretrained(tmp_path / "saved")
    device_map = dict.fromkeys(["model.layers", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    offloaded = type(model).from_pretrained(
        tmp_path / "saved",
        device_map=device_map | {"model.embed_tokens": "disk"},
        offload_folder=tmp_path / "offload",
        offload_buffers=offload_buffers,
    )
    assert offloaded.model.embed_tokens.exact_rows.is_meta
    assert torch.allclose(architecture.run(offloaded), architecture.run(model), atol=1e-6)
    offloaded.save_pretrained(tmp_path / "again")
    first, again = (tmp_path / name / "model.safetensors" for name in ("saved", "again"))
    assert again.read_bytes() == first.read_bytes()


def test_a_given_state_dict_is_what_is_saved(saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    state = model.state_dict()
    state[f"{TABLE}.exact_rows"] = state[f"{TABLE}.exact_rows"] + 1.0
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = load(tmp_path)  # the digest is that of the given tensors
    assert torch.equal(owners(loaded)[TABLE].exact_rows, owners(model)[TABLE].exact_rows + 1.0)


@pytest.mark.parametrize("name", ["export", "checkpoint-3"])
def test_a_cast_state_dict_does_not_round_the_latents_anew(name: str, saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    state = {
        key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in model.state_dict().items()
    }
    model.save_pretrained(tmp_path / name, state_dict=state)
    loaded = load(tmp_path / name)
    for key, tensor in owners(model)[TABLE].table.tensors.items():
        if key != "exact_rows":
            assert torch.equal(owners(loaded)[TABLE].table.tensors[key], tensor), key


def test_training_changes_what_is_saved_and_the_digest(saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    ids = torch.arange(160).view(4, 40)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(MLM.run(load(tmp_path)), MLM.run(model))
    configs = [json.loads((path / "config.json").read_text()) for path in (saved, tmp_path)]
    before, after = (config["quantization_config"]["digest"] for config in configs)
    assert before != after


def test_a_state_dict_instead_of_files(saved: Path) -> None:
    model = load(saved)
    config = transformers.BertConfig.from_pretrained(saved)
    loaded = transformers.BertForMaskedLM.from_pretrained(None, config=config, state_dict=model.state_dict())
    assert torch.equal(MLM.run(loaded), MLM.run(model))


def test_on_the_fly(dense: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING, logger="transformers_lighttoken"):
        model = load(dense, quantization_config=SMALL)
    assert "No tokenizer was found beside the model" in caplog.text
    original = load(dense).bert.embeddings.word_embeddings.weight
    decoded = owners(model)[TABLE].table.decode_all()
    assert owners(model)[TABLE].plan.code_bits == 24
    assert ((decoded - original).norm() / original.norm()).item() < 0.8
    assert not SMALL.is_compressed
    model.save_pretrained(tmp_path)
    assert torch.equal(MLM.run(load(tmp_path)), MLM.run(model))


def test_on_the_fly_takes_exact_ids_from_the_tokenizer_beside_it(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "dense"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(155))]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    model = load(folder, quantization_config=LightTokenConfig(compression_ratio=2.0, rank=2))
    table = owners(model)[TABLE].table
    original = load(folder).bert.embeddings.word_embeddings.weight
    exact = (table.positions < table.plan.num_exact).nonzero().flatten()
    assert exact.numel() > 0
    assert set(exact.tolist()) <= set(range(5))
    assert torch.equal(table.decode(exact), original[exact])


def test_registration_survives_reloading(saved: Path) -> None:
    quantizer_module.register()
    importlib.reload(transformers_lighttoken)
    assert AUTO_QUANTIZER_MAPPING["lighttoken"].__name__ == "LightTokenQuantizer"
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["lighttoken"] is LightTokenConfig
    assert owners(load(saved))


def test_public_names() -> None:
    assert transformers_lighttoken.compress_table.__name__ == "compress_table"
    with pytest.raises(AttributeError, match="no attribute 'compress_everything'"):
        _ = transformers_lighttoken.compress_everything


# --- what is refused ---


def test_loading_without_the_plugin_fails_loudly(saved: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(saved).save_pretrained(tmp_path)
    script = (
        "import sys, transformers\n"
        "for folder, name in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    try:\n"
        "        getattr(transformers, name).from_pretrained(folder)\n"
        "    except RuntimeError as error:\n"
        "        print('refused', name, 'ignore_mismatched_sizes' in str(error))\n"
        "    else:\n"
        "        print('LOADED', name)\n"
        "assert 'transformers_lighttoken' not in sys.modules\n"
    )
    cases = [(saved, "AutoModelForMaskedLM"), (saved, "AutoModel"), (tmp_path, "AutoModelForSequenceClassification")]
    arguments = [str(part) for case in cases for part in case]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"refused {name} True" for _, name in cases], result.stdout + result.stderr
    assert "word_embeddings.weight" in result.stderr
