"""What a compressed checkpoint's files hold, checked before any memory is taken."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..coding.plan import CodingPlan
from ..coding.table import check_tensors, digest_of
from ..config import LightTokenConfig
from .errors import LightTokenCheckpointError

logger = logging.getLogger(__name__)

LATENTS = "latents"
SENTINEL = "weight"
_ALWAYS_STORED = "exact_rows"
TENSORS_ONLY = "sha256:"


class CheckpointFiles:
    """The safetensors files of a checkpoint, by the tensors that they hold.

    Args:
        paths: of the files.

    Raises:
        LightTokenCheckpointError: if a file is truncated or no safetensors file, naming it.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.file_of: dict[str, str] = {}
        for path in paths:
            if not str(path).endswith(".safetensors"):
                raise LightTokenCheckpointError(
                    f"{path} is no safetensors file: the tables of a compressed checkpoint are read and checked in "
                    "safetensors alone. Load the tensors with torch.load(path, weights_only=True), write them with "
                    "safetensors.torch.save_file(tensors, 'model.safetensors', {'format': 'pt'}), and remove the file."
                )
            try:
                with safe_open(path, framework="pt") as file:
                    self.file_of.update(dict.fromkeys(file.keys(), str(path)))
            except (SafetensorError, OSError) as error:
                raise LightTokenCheckpointError(f"{path} cannot be read: {error}. Download it again.") from error

    def holds(self, name: str) -> bool:
        """Whether a tensor is stored under this name, with or without a prefix."""
        return any(same_module(name, key) for key in self.file_of)

    def prefix_of(self, table: str) -> str:
        """The prefix under which a table is stored; conversions of transformers may have changed it.

        Raises:
            LightTokenCheckpointError: if the files do not hold the table.
        """
        stored = [key.removesuffix(f".{_ALWAYS_STORED}") for key in self.file_of if key.endswith(f".{_ALWAYS_STORED}")]
        prefix = matching_name(table, stored) or (stored[0] if len(stored) == 1 else None)
        if prefix is None:
            raise LightTokenCheckpointError(
                f"quantization_config names a compressed table {table!r}, but {self._shown()} holds "
                f"{f'only {stored}' if stored else 'none'}: a file is missing, or config.json belongs to another model."
            )
        return prefix

    def latents_of(self, prefix: str) -> dict[str, Tensor]:
        """The float32 latents stored beside a table, as a training checkpoint has them; empty elsewhere."""
        start = f"{prefix}.{LATENTS}."
        latents = {}
        for key, path in self.file_of.items():
            if key.startswith(start):
                with safe_open(path, framework="pt") as file:
                    latents[key.removeprefix(start)] = file.get_tensor(key)
        return latents

    def check(self, plans: Mapping[str, CodingPlan], config: LightTokenConfig) -> None:
        """Checks the stored tensors of all tables against their plans, and bytes and plans against the digest.

        Raises:
            LightTokenCheckpointError: naming the tensors that are missing or mis-shaped, or the files whose bytes are
                not those that were written.
        """
        expected = config.digest
        if expected is None:
            raise LightTokenCheckpointError(
                "the quantization_config of config.json has no digest, so that its tables cannot be checked: download "
                "config.json again."
            )
        stored: dict[str, Tensor] = {}
        for table, plan in plans.items():
            stored |= self._read(table, plan)
            self._check_sentinel(table)
            self._check_heads(table, (config.shared_heads or {}).get(table, []))
        old = expected.startswith(TENSORS_ONLY)
        found = digest_of(stored) if old else checkpoint_digest(stored, config.tables or {})
        if found != expected:
            raise LightTokenCheckpointError(
                f"the compressed tables in {'' if old else 'config.json and '}{self._shown()} are not what was "
                f"written: they have the digest {found}, config.json says {expected}. Download the checkpoint again."
            )

    def _read(self, table: str, plan: CodingPlan) -> dict[str, Tensor]:
        prefix = self.prefix_of(table)
        tensors: dict[str, Tensor] = {}
        with ExitStack() as stack:
            opened: dict[str, safe_open] = {}
            for name in plan.tensor_specs():
                path = self.file_of.get(f"{prefix}.{name}")
                if path is None:
                    continue  # named by check_tensors
                if path not in opened:
                    opened[path] = stack.enter_context(safe_open(path, framework="pt"))
                tensors[name] = opened[path].get_tensor(f"{prefix}.{name}")
            try:
                check_tensors(plan, tensors)
            except ValueError as error:
                raise LightTokenCheckpointError(f"{self._shown()}, table {table!r}: {error}") from error
        return {f"{table}.{name}": tensor for name, tensor in tensors.items()}

    def _check_sentinel(self, table: str) -> None:
        key = f"{self.prefix_of(table)}.{SENTINEL}"
        path = self.file_of.get(key)
        if path is None:
            logger.warning(
                "%s lacks the empty tensor %r, without which transformers alone loads the model with random embeddings "
                "instead of refusing it. Load it and save it again to put it there.", self._shown(), key,
            )  # fmt: skip
            return
        with safe_open(path, framework="pt") as file:
            shape = tuple(file.get_slice(key).get_shape())
        if shape != (0,):
            raise LightTokenCheckpointError(
                f"{Path(path).name} holds {key!r} of shape {shape} beside the compressed table {table!r}, where an "
                "empty tensor of shape (0,) belongs: the file was merged with a dense one. Download it again."
            )

    def _check_heads(self, table: str, heads: Sequence[str]) -> None:
        for head in heads:
            if self.holds(f"{head}.weight"):
                raise LightTokenCheckpointError(
                    f"{self._shown()} holds '{head}.weight', but config.json says that {head!r} shares the compressed "
                    f"table {table!r}: the file was merged with a dense one. Download it again, or drop the tensor."
                )

    def _shown(self) -> str:
        return ", ".join(sorted({Path(path).name for path in self.file_of.values()})) or "the checkpoint"


def checkpoint_digest(tensors: Mapping[str, Tensor], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the stored tensors of all tables and the plans that say how they are decoded.

    Args:
        tensors: by table and name, as `<table>.<tensor>`.
        tables: plain JSON values of each table's plan, as config.json has them.

    Returns:
        "sha256-plan:<hex>", of canonical JSON that holds the plans and `digest_of` the tensors. A checkpoint whose
        digest starts with "sha256:" was written before plans were covered; it has `digest_of` the tensors alone.
    """
    covered = {"tables": {name: dict(fields) for name, fields in tables.items()}, "tensors": digest_of(tensors)}
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    return "sha256-plan:" + hashlib.sha256(canonical.encode()).hexdigest()


def same_module(first: str, second: str) -> bool:
    """Whether two dotted names are the same but for a prefix, which changes with the task class."""
    return first == second or first.endswith(f".{second}") or second.endswith(f".{first}")


def matching_name(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is the same name, else one that is the same but for a prefix."""
    candidates = list(candidates)
    return name if name in candidates else next((other for other in candidates if same_module(name, other)), None)


def sentinel_pattern(names: Iterable[str], sentinel: str) -> str:
    """A regular expression for the sentinels of tables, with or without a prefix."""
    return rf"(^|\.)({'|'.join(re.escape(name) for name in names)})\.{sentinel}$"
