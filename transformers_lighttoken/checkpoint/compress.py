"""compress_checkpoint: from a dense checkpoint on disk to a compressed one."""

import copy
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from ..coding.encode import Progress
from ..coding.table import CompressedTable, digest_of
from ..config import FORMAT_VERSION, LightTokenConfig
from ..evaluation.fidelity import table_fidelity
from ..modeling.embedding import SENTINEL
from ..modeling.fitting import FittingContext, fit_table, tokenizer_of
from ..progress import progress_bars
from ..report import CompressionReport, compression_report
from ..version import __version__
from .files import WEIGHTS, WEIGHTS_INDEX
from .histogram import cosine_histogram
from .output import new_folder, refuse_inside
from .source import Source, refuse_quantized, resolve_source
from .tables import TableSource, build_skeleton, find_tables
from .tensor_file import DTYPES, NewTensor
from .weights import Weights, convert_weights, read_weights
from .write import Change, write_checkpoint


def compress_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: LightTokenConfig,
    *,
    revision: str | None = None,
    subfolder: str = "",
    frequencies: Tensor | None = None,
    calibration: str | Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> CompressionReport:
    """Compresses the token-embedding tables of a checkpoint; every other tensor is copied byte for byte.

    Only the tables are read; the model is loaded only where it is to be measured (`metric="auto"`). Tokenizer and other
    files come along; weights in other formats than safetensors are left behind. The output appears whole or not at all.

    Args:
        source: a folder, or a repository on the Hub.
        output: the folder to make; must not exist, or be empty.
        config: how to compress.
        revision: of the repository.
        subfolder: of the source, where the model lies.
        frequencies: (V,) counts of the tokens, by id.
        calibration: text on which to measure where the model is sensitive.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: told of each step; progress bars on standard error when None.

    Returns:
        What was stored, and how faithful it is.

    Raises:
        SourceError: if there is no usable dense checkpoint, or it is quantized already.
        OutputError: if the output is there already, or another run is writing it.
        OSError: if something cannot be written.
        ValueError: if the config cannot be met.
    """
    if not isinstance(config, LightTokenConfig):
        raise TypeError(f"config must be a LightTokenConfig, got {type(config).__name__}.")
    if config.is_compressed:
        raise ValueError("config describes a compressed checkpoint: give a new LightTokenConfig.")
    torch_device = resolve_device(device)
    found = resolve_source(source, revision, subfolder)
    refuse_quantized(found)
    refuse_inside(output, found.folder)
    with new_folder(output) as folder, progress_bars(progress) as report:
        weights = _open_weights(found.folder, folder.with_name("converted"))
        skeleton = build_skeleton(found.folder)
        sources = find_tables(skeleton, weights, config)
        tokenizer = tokenizer_of(skeleton, [entry.site for entry in sources])
        load_model = _model_loader(skeleton, found.folder, torch_device)
        context = FittingContext(config, load_model, tokenizer, frequencies, calibration, report)
        results = {entry.site.owner: _compress_table(entry, context, torch_device) for entry in sources}
        recorded = _record(config, results, _origin(found, torch_device, frequencies, calibration))
        change = _change(sources, {name: table for name, (table, _) in results.items()})
        new_config = {**found.config, "quantization_config": recorded.to_dict()}
        write_checkpoint(folder, found, weights, change, new_config, report)
    return compression_report(output)


def resolve_device(device: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here.

    Raises:
        ValueError: if it is another word, or there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but PyTorch finds no GPU here: use 'cpu' or 'auto'.")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


def _compress_table(
    source: TableSource, context: FittingContext, device: torch.device
) -> tuple[CompressedTable, dict[str, Any]]:
    """The compressed table on the CPU, and what is recorded of it."""
    weight = source.weight.load().to(device)
    table, measured = fit_table(weight, source.site, context)
    decoded = table.decode_all()
    table = table.to("cpu")
    recorded = {
        "source_dtype": str(DTYPES[source.weight.dtype]).removeprefix("torch."),
        "keys": list(source.keys),
        "digest": table.digest(),
        "measured_on": measured.source,
        **asdict(table_fidelity(weight, decoded)),
        "cosine_histogram": cosine_histogram(weight, decoded),
    }
    return table, recorded


def _model_loader(skeleton: PreTrainedModel, folder: Path, device: torch.device) -> Callable[[], PreTrainedModel]:
    """Loads the dense model in float32, once, where it is to be measured."""

    @functools.cache
    def load() -> PreTrainedModel:
        return type(skeleton).from_pretrained(folder, dtype=torch.float32).to(device)  # pyright: ignore

    return load


def _open_weights(folder: Path, converted: Path) -> Weights:
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return read_weights(folder)
    convert_weights(folder, converted)
    return read_weights(converted)


def _change(sources: list[TableSource], tables: Mapping[str, CompressedTable]) -> Change:
    change = Change()
    for source in sources:
        table, home = tables[source.site.owner], source.weight.path.name
        change.removed |= set(source.keys)
        for name, tensor in table.tensors.items():
            change.add(f"{source.prefix}.{name}", NewTensor.of(tensor), home)
        # Without this package transformers stops at the sentinel's shape. Another dtype would mislead dtype="auto".
        sentinel = torch.empty(0, dtype=DTYPES[source.weight.dtype])
        change.add(f"{source.prefix}.{SENTINEL}", NewTensor.of(sentinel), home)
        for key, head in source.dense_heads.items():
            change.add(key, head, head.path.name)
        rows, dim = table.shape
        change.parameters += table.plan.num_exact * dim - rows * dim * (1 - len(source.dense_heads))
    return change


def _record(
    config: LightTokenConfig,
    results: Mapping[str, tuple[CompressedTable, dict[str, Any]]],
    origin: dict[str, Any],
) -> LightTokenConfig:
    """The config of the compressed checkpoint."""
    stored = {f"{name}.{key}": tensor for name, (table, _) in results.items() for key, tensor in table.tensors.items()}
    recorded = copy.deepcopy(config)
    recorded.tables = {name: table.plan.to_dict() for name, (table, _) in results.items()}
    recorded.digest = digest_of(stored)
    recorded.format_version, recorded.plugin_version = FORMAT_VERSION, __version__
    recorded.provenance = {**origin, "tables": {name: facts for name, (_, facts) in results.items()}}
    return recorded


def digest_of_text(passages: str | Sequence[str]) -> str:
    """SHA-256 of a text, as "sha256:<hex>"."""
    text = passages if isinstance(passages, str) else "\n".join(passages)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _origin(
    source: Source, device: torch.device, frequencies: Tensor | None, calibration: str | Sequence[str] | None
) -> dict[str, Any]:
    """What the tables were made from; of frequencies and text only the digest is kept."""
    origin = {
        "source": source.repo_id,
        "revision": source.revision,
        "device": device.type,
        "frequencies": None if frequencies is None else digest_of({"frequencies": frequencies}),
        "calibration": None if calibration is None else digest_of_text(calibration),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    return {key: value for key, value in origin.items() if value is not None}
