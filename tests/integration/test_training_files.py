"""What the folder of a training checkpoint holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.integration.test_training import STEPS, compressed, trainer_of
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import compression_report
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint


class TestFilesOfACheckpoint:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        trainer_of(compressed("llama-tied"), tmp_path, "tokens").train()
        return tmp_path

    def test_hold_latents_that_no_report_counts_and_decompression_drops(self, run: Path, tmp_path: Path):
        checkpoint = run / f"checkpoint-{STEPS}"
        assert any(".latents." in key for key in load_file(checkpoint / "model.safetensors"))
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
        reports = [compression_report(checkpoint).to_dict(), compression_report(model).to_dict()]
        assert reports[0]["stored_bytes"] == reports[1]["stored_bytes"]
        assert reports[0]["model_ratio"] == reports[1]["model_ratio"]
        decompress_checkpoint(checkpoint, tmp_path / "dense")
        keys = set(load_file(tmp_path / "dense" / "model.safetensors"))
        assert not any("latents" in key for key in keys)
        auto_class: Any = transformers.AutoModelForCausalLM
        dense, info = auto_class.from_pretrained(tmp_path / "dense", output_loading_info=True)
        assert not any(info.values()), info
        run_of = ARCHITECTURES["llama-tied"].run
        assert torch.allclose(run_of(dense), run_of(model), atol=1e-5)

    def test_are_asked_for_by_name_elsewhere(self, tmp_path: Path):
        model = compressed("llama-tied")
        for wanted in (True, False):
            folder = tmp_path / ("checkpoint-7" if not wanted else "elsewhere")
            model.save_pretrained(folder, training_checkpoint=wanted)
            keys = load_file(folder / "model.safetensors")
            assert any(".latents." in key for key in keys) is wanted

    def test_an_export_says_nothing_of_fidelity_that_training_has_changed(self, run: Path):
        report = compression_report(run / f"checkpoint-{STEPS}").to_dict()
        assert report["relative_error"] is None
