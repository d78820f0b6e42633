"""Compressed models under transformers' own Trainer: trained, saved, resumed and reloaded like any other."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken.modeling.sites import owners

STEPS = 6


class Sentences(torch.utils.data.Dataset):
    """Random ids, which no model can learn but by heart."""

    def __init__(self, kind: str, rows: int = 16) -> None:
        noise = torch.Generator().manual_seed(0)
        self.ids, self.kind = torch.randint(4, 160, (rows, 9), generator=noise), kind

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        labels = {"class": ids[0] % 2, "tokens": ids, "seq2seq": ids[:5]}[self.kind]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


class StopAt(TrainerCallback):
    """Ends a run as a kill after a checkpoint would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def compressed(name: str, **fields: Any) -> Any:
    """A compressed model, always the same one; it has dropout."""
    if name == "t5":
        fields |= {"decoder_start_token_id": 0}
    model = ARCHITECTURES[name].build(**fields)
    compress_at_random(model, tiers=3)
    return model


def trainer_of(model: Any, folder: Path, kind: str, callbacks: list[TrainerCallback] | None = None, **options: Any):
    data = Sentences(kind)
    defaults: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "weight_decay": 0.01,
        "logging_strategy": "no",
    }
    arguments = TrainingArguments(str(folder), **{**defaults, **options})
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks)


def stored(model: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": t.clone() for name, owner in owners(model).items() for key, t in owner.table.tensors.items()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


KINDS = {
    "bert-classification": "class",
    "bert-mlm": "tokens",
    "llama-tied": "tokens",
    "llama": "tokens",
    "gemma3": "tokens",
    "gpt2": "tokens",
    "t5": "seq2seq",
    "bart": "seq2seq",
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_trained_model_comes_back_bit_for_bit(name: str, tmp_path: Path):
    model = compressed(name)
    before = stored(model)
    trainer = trainer_of(model, tmp_path / "run", KINDS[name])
    trainer.train()
    model.eval()
    after = stored(model)
    changed = {key.rsplit(".", 1)[1] for key in before if not torch.equal(before[key], after[key])}
    assert changed >= {"exact_rows", "decoder", "tier_1_decoder", "row_scale", "low_rank_right"}
    expected = ARCHITECTURES[name].run(model)
    trainer.save_model(str(tmp_path / "export"))
    assert not any(".latents." in key for key in load_file(tmp_path / "export" / "model.safetensors"))
    for folder in (tmp_path / "export", tmp_path / "run" / f"checkpoint-{STEPS}"):
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert same(stored(loaded), after)
        assert torch.equal(ARCHITECTURES[name].run(loaded), expected)


@pytest.mark.parametrize(("name", "factor"), [("bert-classification", 0.98), ("llama-tied", 0.9)])
def test_training_the_table_alone_lowers_the_loss(name: str, factor: float, tmp_path: Path):
    model = compressed(name)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    (owner,) = owners(model).values()
    owner.train_parts(["decoder", "row_scales"])
    options = {"max_steps": 60, "learning_rate": 0.1, "save_strategy": "no", "logging_strategy": "steps"}
    trainer = trainer_of(model, tmp_path, KINDS[name], **options, logging_steps=20)
    trainer.train()
    assert losses(trainer)[-1] < factor * losses(trainer)[0]


class TestResuming:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("bert-classification", {}),
            ("llama-tied", {"gradient_accumulation_steps": 2, "bf16": True}),
            ("gemma3", {"gradient_checkpointing": True}),
            ("t5", {}),
        ],
    )
    def test_equals_the_uninterrupted_run_bit_for_bit(self, name: str, options: dict[str, Any], tmp_path: Path):
        whole = trainer_of(compressed(name), tmp_path / "whole", KINDS[name], **options)
        whole.train()
        first = trainer_of(compressed(name), tmp_path / "cut", KINDS[name], [StopAt(3)], **options)
        first.train()
        again = trainer_of(compressed(name), tmp_path / "cut", KINDS[name], **options)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == STEPS
        ours, theirs = again.model.state_dict(), whole.model.state_dict()  # pyright: ignore[reportOptionalMemberAccess]
        assert any(".latents." in key for key in ours)
        assert same(ours, theirs)

    def test_from_pretrained_of_a_checkpoint_goes_on_from_its_latents(self, tmp_path: Path):
        trainer = trainer_of(compressed("bert-classification"), tmp_path, "class")
        trainer.train()
        model: Any = trainer.model
        loaded = type(model).from_pretrained(tmp_path / f"checkpoint-{STEPS}", dtype=torch.bfloat16)
        for (name, ours), (_, theirs) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
            assert torch.equal(ours, theirs.to(ours.dtype)), name
            assert ours.dtype == (torch.float32 if ".latents." in name else torch.bfloat16)

    def test_the_best_model_is_loaded_at_the_end(self, tmp_path: Path):
        options = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 0.3}
        trainer = trainer_of(compressed("bert-classification"), tmp_path, "class", **options)
        trainer.train()
        scores = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        best = min(scores, key=lambda step: scores[step])
        assert trainer.evaluate()["eval_loss"] == scores[best]
        state = trainer.model.state_dict()  # pyright: ignore[reportOptionalMemberAccess]
        saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
        assert all(torch.equal(state[key], tensor) for key, tensor in saved.items())


class TestWaysOfTraining:
    @pytest.mark.parametrize("name", ["bert-classification", "llama-tied"])
    @pytest.mark.parametrize(
        "options",
        [
            {"bf16": True},
            {"gradient_checkpointing": True},
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        ],
        ids=["bf16", "checkpointing", "reentrant", "accumulation"],
    )
    def test_gives_about_what_plain_training_gives(self, name: str, options: dict[str, Any], tmp_path: Path):
        fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if "bert" in name else {}
        results = []
        for number, chosen in enumerate(({}, options)):
            model = compressed(name, **fields)
            trainer = trainer_of(model, tmp_path / str(number), KINDS[name], save_strategy="no", **chosen)
            trainer.train()
            results.append(trainer.evaluate()["eval_loss"])
        assert results[1] == pytest.approx(results[0], rel=0.03)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["bert-classification", "llama-tied"])
    def test_compiled(self, name: str, tmp_path: Path):
        results = []
        for number, backend in enumerate((None, "inductor")):
            options = {"torch_compile": backend is not None, "torch_compile_backend": backend}
            model = compressed(name)
            model.eval()
            trainer = trainer_of(model, tmp_path / str(number), KINDS[name], **(options if backend else {}))
            trainer.train()
            trained = stored(model)
            loaded = type(model).from_pretrained(tmp_path / str(number) / f"checkpoint-{STEPS}")
            assert same(stored(loaded), trained)
            results.append(trainer.evaluate()["eval_loss"])
        assert results[1] == pytest.approx(results[0], rel=0.1)

    def test_a_frozen_table_keeps_nothing_for_gradients(self, tmp_path: Path):
        model = compressed("bert-classification")
        before = stored(model)
        (owner,) = owners(model).values()
        owner.train_parts([])
        assert not any(parameter.requires_grad for parameter in owner.parameters())
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            assert not owner(torch.arange(160)).requires_grad
        assert saved == []
        trainer_of(model, tmp_path, "class").train()
        assert same(stored(model), before)

    def test_added_tokens_learn(self, tmp_path: Path):
        model = compressed("llama-tied")
        model.resize_token_embeddings(163)
        before = model.get_input_embeddings()(torch.arange(160, 163)).detach().clone()
        data = Sentences("tokens")
        data.ids[:, 3:6] = torch.tensor([160, 161, 162])
        trainer = trainer_of(model, tmp_path, "tokens")
        trainer.train_dataset = data
        trainer.train()
        after = model.get_input_embeddings()(torch.arange(160, 163)).detach()
        assert (after - before).abs().min(dim=1).values.gt(0).all()
        loaded = type(model).from_pretrained(tmp_path / f"checkpoint-{STEPS}")
        assert torch.equal(loaded.get_input_embeddings()(torch.arange(160, 163)), after)

    def test_a_table_without_row_scales_or_exact_rows(self, tmp_path: Path):
        model = ARCHITECTURES["bert-classification"].build()
        compress_at_random(model, exact=0)
        trainer_of(model, tmp_path, "class").train()
        loaded = type(model).from_pretrained(tmp_path / f"checkpoint-{STEPS}")
        assert same(stored(loaded), stored(model))


def test_latents_count_as_parameters_only_where_they_train():
    model = compressed("llama-tied")
    (owner,) = owners(model).values()
    assert owner.latents is not None
    latents = sum(parameter.numel() for parameter in owner.latents.parameters())
    every = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters(only_trainable=True) == every
    assert model.num_parameters() == every - latents


def test_a_gathered_state_dict_is_rounded_from_its_latents(tmp_path: Path):
    """As under FSDP: the processes' own stored bytes are older than the latents that were gathered."""
    model = compressed("bert-classification")
    state = model.state_dict()
    key = next(key for key in state if key.endswith("latents.decoder"))
    state[key] = state[key] + 0.1
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = type(model).from_pretrained(tmp_path)
    (owner,) = owners(model).values()
    assert owner.latents is not None
    with torch.no_grad():
        owner.latents.get_parameter("decoder").add_(0.1)
    assert same(stored(loaded), stored(model))
    assert re.match("sha256-plan:", loaded.config.quantization_config.digest)
