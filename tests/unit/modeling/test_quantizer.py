"""Loading and saving through transformers, and what is refused on the way."""

import importlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModel, BertModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import transformers_lighttoken
from tests.helpers import compress_at_random, stored_tensors_of
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig, compression_report
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint
from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.coding.table import digest_of
from transformers_lighttoken.modeling import quantizer as quantizer_module
from transformers_lighttoken.modeling.checkpoint import checkpoint_digest
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError, UnsupportedEmbeddingError
from transformers_lighttoken.modeling.sites import owners

TABLE = "bert.embeddings.word_embeddings"
MLM = ARCHITECTURES["bert-mlm"]
SMALL = LightTokenConfig(rank=2, code_bits=24)


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


def load(folder: Path, **options: Any) -> Any:
    return transformers.BertForMaskedLM.from_pretrained(folder, **options)


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= fields
    path.write_text(json.dumps(config))


def edit_plan(folder: Path, **fields: object) -> None:
    tables = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"]
    edit_config(folder, tables={name: plan | fields for name, plan in tables.items()})


def edit_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    stored = stored_tensors_of(folder)
    for name, tensor in tensors.items():
        key = f"{TABLE}.{name}"
        stored.pop(key) if tensor is None else stored.update({key: tensor})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


class OtherEmbedding(torch.nn.Embedding):
    """A subclass that LightToken cannot know."""


class BertWithOtherEmbedding(BertModel):
    """Remote code may look like this."""

    def __init__(self, config: transformers.BertConfig) -> None:
        super().__init__(config)
        self.embeddings.word_embeddings = OtherEmbedding(config.vocab_size, config.hidden_size)


# --- what works ---


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


@pytest.mark.parametrize("name", ["codes", "decoder_scale", "exact_rows", "tier_index", "tier_2_row_scale_range"])
def test_missing_tensors_are_named(folder: Path, name: str) -> None:
    edit_tensors(folder, **{name: None})
    with pytest.raises(LightTokenCheckpointError, match=name if name != "exact_rows" else TABLE):
        load(folder)


@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}])
def test_mis_shaped_tensors_are_named(folder: Path, options: dict) -> None:
    edit_tensors(folder, codes=torch.zeros(7, dtype=torch.uint8))
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors.*codes is torch.uint8 \(7,\), expected"):
        load(folder, **options)


def test_tensors_of_another_dtype_are_named(folder: Path) -> None:
    edit_tensors(folder, decoder=stored_tensors_of(folder)[f"{TABLE}.decoder"].float())
    with pytest.raises(LightTokenCheckpointError, match=r"decoder is torch.float32"):
        load(folder)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float32}])
def test_a_truncated_file_is_refused(folder: Path, options: dict) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((LightTokenCheckpointError, Exception), match=r"model.safetensors|incomplete|not fully covered"):
        load(folder, **options)


def test_changed_bytes_are_found_by_the_digest(folder: Path) -> None:
    codes = stored_tensors_of(folder)[f"{TABLE}.codes"]
    codes[3] ^= 1
    edit_tensors(folder, codes=codes)
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors are not what was written.*sha256-plan:"):
        load(folder, dtype=torch.bfloat16)


def without(folder: Path, name: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"][name]
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("read", [load, compression_report, lambda folder: decompress_checkpoint(folder, "unused")])
@pytest.mark.parametrize("name", ["format_version", "digest"])
def test_a_checkpoint_that_lacks_what_every_one_has_is_refused(folder: Path, name: str, read: Callable) -> None:
    without(folder, name)
    with pytest.raises(LightTokenCheckpointError, match=f"config.json has .*no {name}"):
        read(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(rotation_seed=1),
        lambda plan: plan.update(stage_bits=plan["stage_bits"][::-1]),
        lambda plan: plan.update(exact_dtype="bfloat16"),
        lambda plan: plan["tiers"][0].update(kind="rotated", code_bits=32, row_scale_bits=4),
    ],
)
def test_a_changed_plan_is_refused(folder: Path, change: Callable) -> None:
    plan = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"][TABLE]
    change(plan)
    edit_plan(folder, **plan)
    message = (
        r"do not match the coding plan|in config.json and model.safetensors are not what was written.*sha256-plan:"
    )
    for read in (load, compression_report):
        with pytest.raises(LightTokenCheckpointError, match=message):
            read(folder)


def test_a_digest_of_the_tensors_alone_is_still_read(folder: Path) -> None:
    stored = {key: tensor for key, tensor in stored_tensors_of(folder).items() if key.startswith(f"{TABLE}.")}
    digest = digest_of({key: tensor for key, tensor in stored.items() if key != f"{TABLE}.weight"})
    edit_config(folder, digest=digest)
    assert compression_report(folder).digest == digest
    model = load(folder)
    model.save_pretrained(folder)
    assert str(compression_report(folder).digest).startswith("sha256-plan:")
    edit_config(folder, digest="sha256:0")
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors are not what was written"):
        load(folder)


def test_a_model_compressed_in_memory_has_no_digest_until_it_is_saved(tmp_path: Path) -> None:
    model = MLM.build()
    compress_at_random(model)
    config = model.config.quantization_config
    assert config.digest is None
    described = transformers.BertConfig.from_dict(model.config.to_dict())
    copied = transformers.BertForMaskedLM.from_pretrained(None, config=described, state_dict=model.state_dict())
    assert torch.equal(MLM.run(copied), MLM.run(model))
    in_memory = compression_report(model).digest
    model.save_pretrained(tmp_path)
    assert compression_report(tmp_path).digest == in_memory == config.digest


def test_a_damaged_tier_index_is_refused_even_where_the_digest_is_right(folder: Path) -> None:
    index = stored_tensors_of(folder)[f"{TABLE}.tier_index"]
    index[0] = 9
    edit_tensors(folder, tier_index=index)
    tables = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"]
    names = [f"{TABLE}.{name}" for name in CodingPlan.from_dict(tables[TABLE]).tensor_specs()]
    stored = stored_tensors_of(folder)
    edit_config(folder, digest=checkpoint_digest({name: stored[name] for name in names}, tables))
    with pytest.raises(LightTokenCheckpointError, match="tier_index has no valid record"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_embeddings": 10**12}, r"1000000000000 x 32.*|num_embeddings"),
        ({"embedding_dim": 64}, "."),
        ({"stage_bits": [10**11]}, "code bits must be at most 1024"),
        ({"rank": 10**9}, r"rank must be in \[0, 31\]"),
        ({"index_bytes": 10**13}, "index_bytes must be at most"),
        ({"stage_bits": None}, "is damaged"),
        ({"tiers": [{"coverage": 5}]}, "is damaged"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_absurd_plans_are_refused_before_memory_is_taken(folder: Path, fields: dict, message: str) -> None:
    edit_plan(folder, **fields)
    with pytest.raises(LightTokenCheckpointError, match=message):
        load(folder)


def test_a_table_of_another_size_than_the_model_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 170}))
    with pytest.raises(LightTokenCheckpointError, match=r"160 x 32, but the model's .* is \(170, 32\) \(vocab_size"):
        load(folder)


def test_a_newer_format_says_what_to_install(folder: Path) -> None:
    edit_config(folder, format_version=2, plugin_version="9.1.0", something_new=1)
    with pytest.raises(ValueError, match=r"format_version 2; .*pip install -U \"transformers-lighttoken>=9.1.0\""):
        load(folder)


def test_a_config_without_tables_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["tables"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LightTokenCheckpointError, match="names no `tables`"):
        load(folder)


def test_a_table_that_no_file_holds_is_named(dense: Path, folder: Path) -> None:
    shutil.copy(dense / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(LightTokenCheckpointError, match=rf"table '{TABLE}', but model.safetensors holds none"):
        load(folder)


def test_a_state_dict_that_lacks_a_tensor_is_refused(saved: Path) -> None:
    state = load(saved).state_dict()
    del state[f"{TABLE}.decoder"]
    config = transformers.BertConfig.from_pretrained(saved)
    with pytest.raises(LightTokenCheckpointError, match=rf"\['{TABLE}.decoder'\]"):
        transformers.BertForMaskedLM.from_pretrained(None, config=config, state_dict=state)


def test_a_wish_on_a_compressed_checkpoint_yields_to_it(saved: Path) -> None:
    with pytest.warns(UserWarning, match="quantization_config"):
        model = load(saved, quantization_config=LightTokenConfig(compression_ratio=3))
    assert owners(model)[TABLE].plan == owners(load(saved))[TABLE].plan


def test_a_source_quantized_otherwise_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="LightTokenConfig"):
        load(folder, quantization_config=SMALL)


def test_a_used_config_for_a_dense_source_is_refused(saved: Path, dense: Path) -> None:
    used = load(saved).config.quantization_config
    with pytest.raises(ValueError, match="describes a compressed checkpoint"):
        load(dense, quantization_config=used)


def test_on_the_fly_refuses_before_loading(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "dense"))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnsupportedEmbeddingError, match=r"\(OtherEmbedding\)"):
        BertWithOtherEmbedding.from_pretrained(folder, quantization_config=SMALL, dtype=torch.float32)


def test_a_tokenizer_of_another_model_is_refused(dense: Path) -> None:
    tokenizer = transformers.BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "hello": 2})
    with pytest.raises(ValueError, match=r"the tokenizer has \d tokens, the table 160 rows"):
        transformers_lighttoken.compress_model(load(dense), SMALL, tokenizer=tokenizer)
