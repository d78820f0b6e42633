"""compression_report: gathers the facts from a checkpoint on disk, or from a model in memory."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..checkpoint.compressed import CompressedCheckpoint, read_compressed
from ..checkpoint.source import SourceError, resolve_source
from ..checkpoint.tables import build_skeleton
from ..checkpoint.weights import read_weights
from ..coding.table import CompressedTable
from ..config import LightTokenConfig
from ..evaluation.fidelity import table_fidelity
from ..modeling.checkpoint import LATENTS, checkpoint_digest, matching_name
from ..modeling.embedding import LightTokenEmbedding
from ..modeling.head import LightTokenHead
from ..modeling.sites import TableSite, find_sites, owners
from .facts import CompressionReport, TableReport

Original = PreTrainedModel | Tensor | str | os.PathLike[str]


def compression_report(
    model: PreTrainedModel | str | os.PathLike[str], original: Original | None = None
) -> CompressionReport:
    """What a compressed model stores, and how faithful it is.

    Sizes are those of what is stored. Errors are measured where `original` is given; else they are those that were
    recorded when the table was made, if it has not changed since, and absent otherwise.

    Args:
        model: a compressed model, or the folder of a compressed checkpoint.
        original: the dense model, its folder or repository on the Hub, or, for a single table, its weight (V, d).

    Raises:
        TypeError: if `model` is neither.
        ValueError: if it is not compressed, or `original` holds no table that fits.
        LightTokenCheckpointError: if the checkpoint is damaged.
    """
    if isinstance(model, PreTrainedModel):
        return _of_model(model, original)
    if isinstance(model, (str, os.PathLike)):
        return _of_checkpoint(read_compressed(model), original)
    raise TypeError(f"model must be a transformers model or a folder, got {type(model).__name__}.")


def _of_checkpoint(checkpoint: CompressedCheckpoint, original: Original | None) -> CompressionReport:
    sites = _sites_on_disk(checkpoint)
    held = checkpoint.weights.tensors
    tables = []
    for stored in checkpoint.tables:
        heads = _heads_of(sites, stored.name)
        dense = [head for head in heads if matching_name(f"{head}.weight", held)]
        tables.append(
            TableReport(
                name=stored.name,
                plan=stored.plan,
                source_dtype=stored.source_dtype,
                parts={tensor.key: tensor.num_bytes for tensor in stored.tensors.values()},
                shared_heads=tuple(head for head in heads if head not in dense),
                dense_heads=tuple(dense) if checkpoint.config.tie_policy == "dense" else (),
                measured_on=stored.provenance.get("measured_on"),
                **_fidelity(stored.load, stored.name, stored.provenance, original, len(checkpoint.tables)),
            )
        )
    latents = sum(latent.num_bytes for stored in checkpoint.tables for latent in stored.latents)
    return _report(checkpoint.config, tuple(tables), checkpoint.weights.num_bytes - latents, checkpoint.config.digest)


def _of_model(model: PreTrainedModel, original: Original | None) -> CompressionReport:
    held = owners(model)
    config = getattr(model.config, "quantization_config", None)
    if not held or not isinstance(config, LightTokenConfig):
        raise ValueError(f"{type(model).__name__} has no compressed table: call compress_model(model, config) first.")
    sites = _declared_sites(model) if config.tie_policy == "dense" else []
    tables = []
    for name, owner in held.items():
        plan, recorded = owner.table.plan, _recorded(config, name)
        shared = [head for head, module in model.named_modules() if _shares(module, owner)]
        tables.append(
            TableReport(
                name=name,
                plan=plan,
                source_dtype=plan.exact_dtype,
                parts={f"{name}.{tensor}": spec.num_bytes for tensor, spec in plan.tensor_specs().items()},
                shared_heads=tuple(shared),
                dense_heads=tuple(head for head in _heads_of(sites, name) if head not in shared),
                measured_on=recorded.get("measured_on"),
                **_fidelity(lambda owner=owner: owner.table, name, recorded, original, len(held)),
            )
        )
    stored = {f"{name}.{key}": tensor for name, owner in held.items() for key, tensor in owner.table.tensors.items()}
    plans = {table.name: table.plan.to_dict() for table in tables}
    digest = None if any(tensor.is_meta for tensor in stored.values()) else checkpoint_digest(stored, plans)
    return _report(config, tuple(tables), _model_bytes(model), digest)


def _report(
    config: LightTokenConfig, tables: tuple[TableReport, ...], model_bytes: int, digest: str | None
) -> CompressionReport:
    provenance = config.provenance or {}
    return CompressionReport(
        tables=tables,
        model_bytes=model_bytes,
        digest=digest,
        seed=config.seed,
        solver=config.solver,
        tie_policy=config.tie_policy,
        format_version=config.format_version,
        plugin_version=config.plugin_version,
        versions=provenance.get("versions") or {},
        source=provenance.get("source"),
        revision=provenance.get("revision"),
    )


def _sites_on_disk(checkpoint: CompressedCheckpoint) -> list[TableSite]:
    try:
        return find_sites(build_skeleton(checkpoint.source.folder))
    except SourceError:  # a model that transformers does not know: nothing is said of its heads
        return []


def _declared_sites(model: PreTrainedModel) -> list[TableSite]:
    """The sites of the dense model, which tell the heads that it would tie."""
    with torch.device("meta"):
        return find_sites(getattr(model, "dense_class", type(model))(model.config))


def _heads_of(sites: list[TableSite], name: str) -> tuple[str, ...]:
    match = matching_name(name, [site.owner for site in sites])
    return next((site.heads for site in sites if site.owner == match), ())


def _shares(module: nn.Module, owner: LightTokenEmbedding) -> bool:
    return isinstance(module, LightTokenHead) and module.owner is owner


def _recorded(config: LightTokenConfig, name: str) -> Mapping[str, Any]:
    tables = (config.provenance or {}).get("tables", {})
    match = matching_name(name, tables)
    return tables[match] if match else {}


def _model_bytes(model: PreTrainedModel) -> int:
    """Bytes of the tensors that `save_pretrained` would write, tied ones once."""
    latents = tuple(f"{name}.{LATENTS}." for name in owners(model))
    state = model.state_dict(keep_vars=True)
    distinct = {id(tensor): tensor for key, tensor in state.items() if not key.startswith(latents)}
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())


def _fidelity(
    load: Callable[[], CompressedTable],
    name: str,
    recorded: Mapping[str, Any],
    original: Original | None,
    num_tables: int,
) -> dict[str, float]:
    """The errors of one table: measured, or recorded for these very bytes, or none."""
    if original is not None:
        weight = _original_weight(original, name, recorded, num_tables)
        return asdict(table_fidelity(weight, load().to("cpu").decode_all()))
    if "relative_error" not in recorded or load().digest() != recorded.get("digest"):
        return {}
    return {key: recorded[key] for key in ("relative_error", "cosine_mean", "cosine_p01")}


def _original_weight(original: Original, name: str, recorded: Mapping[str, Any], num_tables: int) -> Tensor:
    if isinstance(original, Tensor):
        if num_tables > 1:
            raise ValueError(f"original is one tensor, but there are {num_tables} tables: give the model.")
        return original.detach().cpu()
    if isinstance(original, PreTrainedModel):
        parameters = dict(original.named_parameters(remove_duplicate=False))
        return parameters[_dense_name(name, recorded, parameters)].detach().cpu()
    tensors = read_weights(resolve_source(original).folder).tensors
    return tensors[_dense_name(name, recorded, tensors)].load()


def _dense_name(name: str, recorded: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    exact = next((key for key in recorded.get("keys") or () if key in tensors), None)
    found = exact or matching_name(f"{name}.weight", tensors)
    if found is None or len(tensors[found].shape) != 2:
        raise ValueError(f"original holds no dense table {name!r}: give the model that was compressed.")
    return found
