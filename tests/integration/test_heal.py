"""Healing: the compressed tables move towards the dense model, nothing else does, and a killed run goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import add_tokenizer, file_contents, read_json, tensor_digests, write_config
from tests.command_line import Result, run_command
from tests.healing import OPTIONS, TEXT, Letters, make, settled
from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig, compression_report, heal_checkpoint, heal_model
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.config import TRAINABLE_PARTS
from transformers_lighttoken.modeling.distillation import Windows, divergence


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    return partial(run_command, capfd)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path, "bert-mlm")


@pytest.mark.parametrize(
    "architecture",
    ["bert", "bert-mlm", "bert-classification", "bert-pretraining", "llama-tied", "llama", "t5-encoder", "xlnet"],
)
def test_every_kind_of_model_comes_nearer_to_the_dense_one(architecture: str, tmp_path: Path):
    dense, compressed = make(tmp_path, architecture)
    before, others = compression_report(compressed), tensor_digests(compressed)
    steps: list[tuple[str, int, int]] = []
    result = heal_checkpoint(
        compressed, TEXT, baseline=dense, options=OPTIONS, progress=lambda *step: steps.append(step)
    )
    assert result.divergence_after < result.divergence_before
    assert [step for step in steps if step[0] == "healing steps"] == [
        ("healing steps", step, 12) for step in range(1, 13)
    ]
    settled(compressed)
    after = compression_report(compressed)
    assert after.digest != before.digest
    assert after.to_dict()["parts"] == before.to_dict()["parts"]
    now = tensor_digests(compressed)
    changed = {key.rsplit(".", 1)[1] for key in others if others[key] != now[key]}
    assert changed >= {"decoder"}
    assert changed <= {"decoder", "decoder_scale", "exact_rows", "row_scale"}
    measured = compression_report(compressed, original=dense).to_dict()
    for key in ("relative_error", "cosine_mean", "cosine_p01"):
        assert after.to_dict()[key] == pytest.approx(measured[key], rel=1e-5)
    assert after.to_dict()["relative_error"] != before.to_dict()["relative_error"]
    (record,) = read_json(compressed / "config.json")["quantization_config"]["provenance"]["healed"]
    assert record["steps"] == 12
    assert record["divergence_after"] == result.divergence_after
    assert str(tmp_path) not in (compressed / "config.json").read_text()


def test_the_model_that_is_saved_is_the_one_that_was_healed(both: tuple[Path, Path]):
    dense, compressed = both
    result = heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS)
    again = heal_checkpoint(compressed, TEXT, baseline=dense, options=replace(OPTIONS, steps=20))
    assert again.divergence_before == pytest.approx(result.divergence_after, rel=1e-5)
    healed = read_json(compressed / "config.json")["quantization_config"]["provenance"]["healed"]
    assert [record["steps"] for record in healed] == [12, 20]


def test_half_precision_stays(tmp_path: Path):
    model = ARCHITECTURES["llama-tied"].build().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "dense")
    add_tokenizer(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", LightTokenConfig(code_bits=8, metric="plain"))
    heal_checkpoint(tmp_path / "compressed", TEXT, baseline=tmp_path / "dense", options=OPTIONS)
    assert {table.plan.exact_dtype for table in compression_report(tmp_path / "compressed").tables} == {"bfloat16"}


@pytest.mark.slow
def test_a_killed_run_leaves_the_checkpoint_as_it_was(both: tuple[Path, Path], tmp_path: Path):
    dense, compressed = both
    original = file_contents(compressed)
    command = [sys.executable, "-m", "transformers_lighttoken", "heal", str(compressed), "--baseline", str(dense)]
    (tmp_path / "text.txt").write_text("\n".join(TEXT))
    command += ["--text", str(tmp_path / "text.txt"), "--steps", "2000", "--window", "16", "--learning-rate", "0.003"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / ".compressed.healing" / "steps" / "checkpoint-25"
    deadline = time.monotonic() + 200
    while not checkpoint.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_dir()
    assert file_contents(compressed) == original


def test_resuming_equals_the_uninterrupted_run(tmp_path: Path):
    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what == "healing steps" and done == 9:
            raise Killed

    results, tensors = [], []
    for name in ("whole", "cut"):
        dense, compressed = make(tmp_path / name, "bert-mlm")
        if name == "cut":
            with pytest.raises(Killed):
                heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=kill)
            assert (compressed.parent / ".compressed.healing" / "steps" / "checkpoint-8").is_dir()
        steps: list[int] = []

        def note(what: str, done: int, total: int, steps: list[int] = steps) -> None:
            if what == "healing steps":
                steps.append(done)

        results.append(heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=note))
        assert steps[0] == (1 if name == "whole" else 8)
        tensors.append(tensor_digests(compressed))
        settled(compressed)
    assert results[0] == results[1]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("damage", ["no_state", "truncated_state", "empty_folder"])
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(both: tuple[Path, Path], damage: str):
    dense, compressed = both

    def stop(what: str, done: int, total: int) -> None:
        if what == "healing steps" and done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=stop)
    newest = compressed.parent / ".compressed.healing" / "steps" / "checkpoint-8"
    state = newest / "trainer_state.json"
    if damage == "empty_folder":
        shutil.rmtree(newest)
        newest.mkdir()
    elif damage == "no_state":
        state.unlink()
    else:
        state.write_text(state.read_text()[:40])
    steps: list[int] = []
    heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=lambda w, done, _: steps.append(done))
    assert steps[:2] == [4, 5]
    settled(compressed)


def test_another_dense_model_starts_anew(both: tuple[Path, Path]):
    dense, compressed = both

    def stop(what: str, done: int, total: int) -> None:
        if what == "healing steps" and done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=stop)
    write_config(dense, layer_norm_eps=1e-6)
    steps: list[int] = []
    heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=lambda _, done, __: steps.append(done))
    assert steps[0] == 1


def test_another_text_starts_anew(both: tuple[Path, Path]):
    dense, compressed = both

    def stop(what: str, done: int, total: int) -> None:
        if what == "healing steps" and done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_checkpoint(compressed, TEXT, baseline=dense, options=OPTIONS, progress=stop)
    steps: list[int] = []
    heal_checkpoint(
        compressed, TEXT[1:], baseline=dense, options=OPTIONS, progress=lambda _, done, __: steps.append(done)
    )
    assert steps[0] == 1


class TestInMemory:
    @pytest.mark.parametrize("parts", [("decoder", "low_rank", "exact_rows"), ("row_scales",), TRAINABLE_PARTS])
    def test_only_what_is_chosen_moves_and_the_flags_come_back(self, parts: tuple[str, ...]):
        dense = ARCHITECTURES["llama-tied"].build()
        model = ARCHITECTURES["llama-tied"].build()
        compress_at_random(model, exact=5)
        model.model.norm.weight.requires_grad_(False)
        before = {name: (value.detach().clone(), value.requires_grad) for name, value in model.named_parameters()}
        result = heal_model(model, dense, Letters(), "ab " * 300, replace(OPTIONS, parts=parts))
        assert result.divergence_after < result.divergence_before
        for name, value in model.named_parameters():
            old, required = before[name]
            assert value.requires_grad == required
            moved = not torch.equal(value, old)
            part = next((part for part in ("row_scale", "decoder", "low_rank", "exact_rows") if part in name), "none")
            assert moved == any(chosen.startswith(part) for chosen in parts), name

    def test_the_divergence_of_a_model_from_itself_is_zero(self):
        for name in ("llama-tied", "bert-mlm", "bert", "t5"):
            model = ARCHITECTURES[name].build()
            data = Windows(torch.randint(4, 160, (2, 9)), decoder_start=0 if name == "t5" else None)
            batch = {key: value.unsqueeze(0) for key, value in data[0].items()}
            assert float(divergence(model, model, batch).detach()) == pytest.approx(0, abs=1e-6)

    def test_masked_windows_hide_words_only(self):
        ids = torch.randint(6, 160, (50, 20))
        ids[:, 0] = 3
        data = Windows(ids, mask_token_id=5, special_ids=[3, 5])
        hidden = torch.stack([data[row]["input_ids"] for row in range(50)]) == 5
        assert not hidden[:, 0].any()
        assert 0.1 < float(hidden[:, 1:].float().mean()) < 0.2


class TestCommand:
    def test_json(self, run: Callable[..., Result], both: tuple[Path, Path], tmp_path: Path):
        text = tmp_path / "text.txt"
        text.write_text("\n".join(TEXT))
        arguments = ["--baseline", both[0], "--text", text, "--steps", 6, "--learning-rate", 0.005, "--window", 16]
        done = run("heal", both[1], *arguments, "--json")
        assert done.status == 0
        assert done.json["healed"]["steps"] == 6
        assert done.json["healed"]["divergence_after"] < done.json["healed"]["divergence_before"]
        assert done.json["stored_bytes"] == compression_report(both[1]).to_dict()["stored_bytes"]
        assert "healing steps" in done.err
        for_people = run("heal", both[1], *arguments)
        assert (for_people.status, "divergence from the dense model" in for_people.out) == (0, True)

    @pytest.mark.parametrize(("option", "value"), [("--steps", 0), ("--steps", -3), ("--learning-rate", 2)])
    def test_wrong_use(self, run: Callable[..., Result], both: tuple[Path, Path], option: str, value: Any):
        text = both[0] / "config.json"
        assert run("heal", both[1], "--text", text, "--baseline", both[0], option, value).status == 2

    def test_empty_file(self, run: Callable[..., Result], both: tuple[Path, Path], tmp_path: Path):
        (tmp_path / "empty.txt").write_text("\n\n")
        done = run("heal", both[1], "--text", tmp_path / "empty.txt", "--baseline", both[0])
        assert (done.status, done.err.strip().splitlines()[-1]) == (
            1, f"error: {tmp_path / 'empty.txt'} holds no text.",
        )  # fmt: skip


def test_a_folder_moved_away_by_a_killed_run_comes_back(both: tuple[Path, Path]):
    compressed = both[1]
    compressed.rename(compressed.with_name(".compressed.old"))
    compressed.with_name(".compressed.new").mkdir()
    heal_checkpoint(compressed, TEXT, baseline=both[0], options=OPTIONS)
    settled(compressed)
