"""What compressing a checkpoint refuses, and what a failure leaves behind: nothing."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints import SMALL, read_json
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.output import OutputError
from transformers_lighttoken.checkpoint.source import SourceError


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"device": "tpu"}, ValueError, "device must be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"calibration": ["text"]}, ValueError, "calibration text needs the model's tokenizer"),
        (
            {"frequencies": torch.ones(3)},
            ValueError,
            r"frequencies must have one value per row, \(160,\), got shape \(3,\)",
        ),
        ({"revision": "main"}, SourceError, "revision 'main'"),
        ({"subfolder": "x"}, SourceError, "no subfolder 'x'"),
    ],
)
def test_wrong_options_are_refused(
    dense: Path, output: Path, options: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        compress_checkpoint(dense, output, SMALL, **options)  # pyright: ignore[reportArgumentType]
    assert [path.name for path in output.parent.iterdir()] == ["dense"]


def test_a_config_of_a_compressed_checkpoint_and_no_config_are_refused(dense: Path, output: Path) -> None:
    compress_checkpoint(dense, output, SMALL)
    recorded = LightTokenConfig(**read_json(output / "config.json")["quantization_config"])
    with pytest.raises(ValueError, match="describes a compressed checkpoint"):
        compress_checkpoint(dense, output.parent / "other", recorded)
    with pytest.raises(TypeError, match="config must be a LightTokenConfig, got dict"):
        compress_checkpoint(dense, output.parent / "other", {"code_bits": 8})  # pyright: ignore[reportArgumentType]
    with pytest.raises(SourceError, match="compressed with LightToken already"):
        compress_checkpoint(output, output.parent / "other", SMALL)


def test_an_impossible_ratio_leaves_nothing(dense: Path, output: Path) -> None:
    with pytest.raises(ValueError, match="ask for at most"):
        compress_checkpoint(dense, output, LightTokenConfig(compression_ratio=5000))
    assert [path.name for path in output.parent.iterdir()] == ["dense"]


def test_an_output_inside_the_source_is_refused(dense: Path) -> None:
    with pytest.raises(OutputError, match="inside the source"):
        compress_checkpoint(dense, dense / "output", SMALL)


@pytest.fixture
def small_disk(dense: Path) -> Iterator[None]:
    """No file may grow beyond half of the dense model: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((dense / "model.safetensors").stat().st_size // 2, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_no_output(dense: Path, output: Path) -> None:
    with pytest.raises(OSError, match="File too large"):
        compress_checkpoint(dense, output, SMALL)
    left = {path.relative_to(output.parent).parts[:2] for path in output.parent.rglob("*") if path.is_file()}
    assert {folder for folder, _ in left} == {"dense", ".output.partial"}
    assert {name for folder, name in left if folder != "dense"} == {"lock", "state"}  # from which it can go on
