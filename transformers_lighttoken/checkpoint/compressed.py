"""Reading a compressed checkpoint's tables, without a model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..coding.plan import CodingPlan
from ..coding.table import CompressedTable
from ..config import QUANT_METHOD, LightTokenConfig
from ..modeling.checkpoint import LATENTS, CheckpointFiles, matching_name
from ..modeling.embedding import SENTINEL
from ..modeling.errors import LightTokenCheckpointError
from .source import Source, SourceError, read_config
from .tensor_file import NewTensor, StoredTensor
from .weights import Weights, read_weights
from .write import Change


@dataclass(frozen=True)
class StoredTable:
    """A compressed table in a checkpoint's files.

    Attributes:
        name: of the module that owns it, as config.json has it.
        prefix: of its tensors' names in the files.
        plan: what is stored.
        tensors: the stored tensors, by their names in the plan; not read yet.
        provenance: what was recorded when it was made; empty where nothing was.
        latents: float32 latents beside it, which only the checkpoint of a training run has.
    """

    name: str
    prefix: str
    plan: CodingPlan
    tensors: Mapping[str, StoredTensor]
    provenance: Mapping[str, Any]
    latents: tuple[StoredTensor, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Names in the files of all tensors that stand for the table, with the sentinel, and latents in training."""
        own = {tensor.key for tensor in self.tensors.values()} | {f"{self.prefix}.{SENTINEL}"}
        return own | {latent.key for latent in self.latents}

    @property
    def source_dtype(self) -> str:
        """Dtype of the dense table: as recorded, unless the checkpoint was cast since."""
        recorded = self.provenance.get("source_dtype")
        stored_as = "float32" if recorded == "float64" else recorded
        return str(recorded) if stored_as == self.plan.exact_dtype else self.plan.exact_dtype

    @property
    def dense_keys(self) -> tuple[str, ...]:
        """Names under which the dense table was stored; more than one where tied weights were stored again."""
        own = f"{self.prefix}.{SENTINEL}"
        recorded = self.provenance.get("keys") or ()
        return tuple(recorded) if own in recorded else (own,)

    def replace_by(self, table: CompressedTable, change: Change) -> None:
        """Notes in a change of the checkpoint that another table takes this one's place; latents go.

        Args:
            table: of the same shape, on the CPU.
            change: to be completed.
        """
        change.removed |= {tensor.key for tensor in (*self.tensors.values(), *self.latents)}
        for name, tensor in table.tensors.items():
            home = self.tensors.get(name, self.tensors["exact_rows"]).path.name
            change.add(f"{self.prefix}.{name}", NewTensor.of(tensor), home)
        change.parameters += (table.plan.num_exact - self.plan.num_exact) * table.plan.embedding_dim

    def load(self) -> CompressedTable:
        """Reads it."""
        return CompressedTable(self.plan, {name: tensor.load() for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class CompressedCheckpoint:
    """A compressed checkpoint on disk, its tables checked.

    Attributes:
        source: its folder and config.json.
        config: its quantization_config.
        weights: all of its tensors.
        tables: its compressed tables.
    """

    source: Source
    config: LightTokenConfig
    weights: Weights
    tables: tuple[StoredTable, ...]

    @property
    def carried_tensors(self) -> list[StoredTensor]:
        """The tensors that stand for no compressed table."""
        ours = {key for table in self.tables for key in table.keys}
        return [tensor for key, tensor in self.weights.tensors.items() if key not in ours]


def read_compressed(folder: str | os.PathLike[str]) -> CompressedCheckpoint:
    """Opens a compressed checkpoint and checks names, shapes and digest of its tables.

    Raises:
        SourceError: if there is no such folder, or its checkpoint is not compressed with LightToken.
        LightTokenCheckpointError: if it is damaged.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SourceError(f"there is no folder {str(folder)!r}: give the folder of a compressed checkpoint.")
    raw = read_config(path)
    quantization = raw.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method != QUANT_METHOD or not isinstance(quantization, dict):
        state = f"quantized with {method!r}" if quantization else "dense"
        raise SourceError(f"{folder} is not compressed with LightToken, but {state}: give a compressed checkpoint.")
    config = _read_quantization(quantization)
    plans = config.plans()
    if not plans:
        raise LightTokenCheckpointError(f"the quantization_config of {folder} names no tables: download it again.")
    weights = read_weights(path)
    files = CheckpointFiles(sorted({str(tensor.path) for tensor in weights.tensors.values()}))
    files.check(plans, config)
    tables = tuple(_table(name, plan, files.prefix_of(name), weights, config) for name, plan in plans.items())
    return CompressedCheckpoint(Source(path, raw), config, weights, tables)


def _read_quantization(quantization: dict[str, Any]) -> LightTokenConfig:
    try:
        return LightTokenConfig.from_dict(quantization)
    except (ValueError, TypeError) as error:
        raise LightTokenCheckpointError(f"the quantization_config of config.json is damaged: {error}") from error


def _table(name: str, plan: CodingPlan, prefix: str, weights: Weights, config: LightTokenConfig) -> StoredTable:
    tensors = {tensor: weights.tensors[f"{prefix}.{tensor}"] for tensor in plan.tensor_specs()}
    recorded = (config.provenance or {}).get("tables", {})
    match = matching_name(name, recorded)
    latents = tuple(tensor for key, tensor in weights.tensors.items() if key.startswith(f"{prefix}.{LATENTS}."))
    return StoredTable(name, prefix, plan, tensors, recorded[match] if match else {}, latents)
