"""recut_checkpoint: from a compressed checkpoint to a smaller one, without the original. Beyond the paper."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..coding.encode import Progress
from ..coding.table import CompressedTable
from ..config import LightTokenConfig
from ..evaluation.fidelity import table_fidelity
from ..modeling.checkpoint import matching_name
from ..modeling.fitting import FittingContext, fit_table, tokenizer_of
from ..modeling.sites import TableSite, find_sites
from ..modeling.surgery import share_heads
from ..progress import progress_bars
from ..report import CompressionReport, compression_report
from .compress import record_tables, resolve_device
from .compressed import CompressedCheckpoint, StoredTable, read_compressed
from .output import new_folder, refuse_inside
from .source import SourceError
from .tables import build_skeleton
from .write import Change, write_checkpoint


def recut_checkpoint(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    ratio: float,
    *,
    frequencies: Tensor | None = None,
    calibration: str | Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> CompressionReport:
    """Makes a smaller checkpoint from a compressed one.

    The first bits of the base codes stay as they are; decoders are refitted to them, and tiers are coded anew, from the
    decoded table. Refitting to the decoded table is refitting to the original one: what its code left over is
    orthogonal to the codes. Where the base code stays whole and rows stand alone, all codes are copied, and the last
    tier is left out where it is missed least. Every tensor that is not of the table is copied byte for byte.

    Args:
        folder: of the compressed checkpoint.
        output: the folder to make; must not exist, or be empty.
        ratio: compression ratio of the result, at least; greater than the present one.
        frequencies: (V,) counts of the tokens, by id; the tokenizer's order when None.
        calibration: text on which to measure where the model is sensitive; made up when None.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: told of each step; progress bars on standard error when None.

    Returns:
        What is stored. Its errors against the original table are unknown here and left out;
        `compression_report(output, original)` measures them.

    Raises:
        SourceError: if the folder holds no checkpoint compressed with LightToken.
        LightTokenCheckpointError: if it is damaged.
        ValueError: if the ratio is not greater than the present one, or cannot be met.
        OutputError: if the output is there already, or another run is writing it.
        OSError: if something cannot be written.
    """
    torch_device = resolve_device(device)
    checkpoint = read_compressed(folder)
    config = _wish(checkpoint, ratio)
    refuse_inside(output, checkpoint.source.folder)
    skeleton = build_skeleton(checkpoint.source.folder)
    sites = [_site_of(skeleton, table, config) for table in checkpoint.tables]
    tokenizer = tokenizer_of(skeleton, sites)
    load_model = _model_loader(type(skeleton), checkpoint.source.folder, torch_device)
    with new_folder(output) as new, progress_bars(progress) as report:
        context = FittingContext(config, load_model, tokenizer, frequencies, calibration, report)
        change, results = Change(), {}
        for entry, site in zip(checkpoint.tables, sites, strict=True):
            results[entry.name] = _cut(entry, site, context, torch_device)
            entry.replace_by(results[entry.name][0], change)
        origin = {**(checkpoint.config.provenance or {}), "recut_from": checkpoint.config.digest}
        recorded = record_tables(config, results, origin)
        new_config = {**checkpoint.source.config, "quantization_config": recorded.to_dict()}
        write_checkpoint(new, checkpoint.source, checkpoint.weights, change, new_config, report)
    return compression_report(output)


def _wish(checkpoint: CompressedCheckpoint, ratio: float) -> LightTokenConfig:
    """What the checkpoint was made with, at another ratio."""
    present = min(table.plan.ratio for table in checkpoint.tables)
    settings = checkpoint.config.to_dict()
    for name in ("tables", "digest", "provenance", "format_version", "plugin_version", "code_bits", "num_stages"):
        settings.pop(name, None)
    if not any(table.plan.tiers for table in checkpoint.tables):
        settings["tiers"] = "equal"
    wish = LightTokenConfig(**{**settings, "compression_ratio": ratio})
    if ratio <= present:
        raise ValueError(
            f"ratio must be greater than {present:.4g}, that of {checkpoint.source.folder}, got {ratio:g}: recut only "
            "makes tables smaller; compress the original for a larger one."
        )
    return wish


def _site_of(skeleton: PreTrainedModel, table: StoredTable, config: LightTokenConfig) -> TableSite:
    sites = {site.owner: share_heads(site, config.tie_policy) for site in find_sites(skeleton)}
    owner = matching_name(table.name, sites)
    if owner is None and len(sites) == 1:
        owner = next(iter(sites))
    if owner is None:
        raise SourceError(f"{type(skeleton).__name__} has no table {table.name!r}: config.json is another model's.")
    return sites[owner]


def _model_loader(model_class: Any, folder: Path, device: torch.device) -> Callable[[], PreTrainedModel]:
    """Loads the model with the decoded tables in float32, once, where it is to be measured."""

    @functools.cache
    def load() -> PreTrainedModel:
        return model_class.from_pretrained(folder, dtype=torch.float32).dequantize().to(device)

    return load


def _cut(
    entry: StoredTable, site: TableSite, context: FittingContext, device: torch.device
) -> tuple[CompressedTable, dict[str, Any]]:
    """The smaller table on the CPU, and what is recorded of it."""
    table = entry.load().to(device)
    decoded = table.decode_all()
    dense = decoded.to(table.tensors["exact_rows"].dtype)
    smaller, measured = fit_table(dense, site, replace(context, nested_in=table))
    error = table_fidelity(decoded, smaller.decode_all()).relative_error
    smaller = smaller.to("cpu")
    source = entry.provenance
    facts = {
        **{key: source[key] for key in ("source_dtype", "keys") if key in source},
        "digest": smaller.digest(),
        "measured_on": measured.source,
        "cut_from": {
            "digest": source.get("digest"),
            "ratio": table.plan.ratio,
            "relative_error": source.get("relative_error"),
            "relative_error_of_the_cut": error,
        },
    }
    return smaller, facts
