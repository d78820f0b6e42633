"""For every architecture, compressing on disk gives what compressing the loaded model and saving it gives."""

from pathlib import Path

import pytest
import transformers
from transformers import PreTrainedModel

from tests.checkpoints import SMALL, tensor_digests
from tests.tiny_models import ARCHITECTURES, Architecture
from transformers_lighttoken import compress_model, compression_report
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint


@pytest.fixture(params=ARCHITECTURES, name="architecture")
def _architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def load(architecture: Architecture, folder: Path) -> PreTrainedModel:
    """Loads with the class that was saved; nothing may be missing, unexpected or mis-shaped."""
    model, info = getattr(transformers, architecture.model).from_pretrained(folder, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    return model.eval()


def test_compressed_on_disk_or_in_memory_is_the_same(architecture: Architecture, tmp_path: Path) -> None:
    architecture.build().save_pretrained(tmp_path / "dense")
    report = compress_checkpoint(tmp_path / "dense", tmp_path / "on_disk", SMALL)
    compress_model(load(architecture, tmp_path / "dense"), SMALL).save_pretrained(tmp_path / "in_memory")
    assert tensor_digests(tmp_path / "on_disk") == tensor_digests(tmp_path / "in_memory")
    in_memory = compression_report(tmp_path / "in_memory")
    assert report.digest == in_memory.digest is not None
    assert report.model_bytes == in_memory.model_bytes
    assert report.parts == in_memory.parts


def test_loads_and_decompresses_to_the_same_outputs(architecture: Architecture, tmp_path: Path) -> None:
    architecture.build().save_pretrained(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
    decompress_checkpoint(tmp_path / "compressed", tmp_path / "again_dense")
    compressed = architecture.run(load(architecture, tmp_path / "compressed"))
    dense = architecture.run(load(architecture, tmp_path / "again_dense"))
    original = architecture.run(load(architecture, tmp_path / "dense"))
    assert float((compressed - dense).norm() / dense.norm()) < 1e-5
    assert float((compressed - original).norm() / original.norm()) > 1e-3  # the table matters
    before, after = tensor_digests(tmp_path / "dense"), tensor_digests(tmp_path / "again_dense")
    assert before.keys() == after.keys()
    assert len([name for name in before if before[name] != after[name]]) == 1
