"""CompressedTable: a coded table, apart from any model."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .decode import DECODE_BLOCK_ROWS, decode_positions
from .plan import CodingPlan
from .tier_index import decode_depths, storage_positions


@dataclass(frozen=True, eq=False)
class CompressedTable:
    """A table of rows in coded form.

    Attributes:
        plan: what is stored.
        tensors: the stored tensors, by the names, dtypes and shapes of `plan.tensor_specs()`.
        positions: (V,) int32, where each row is stored; derived from the tier index.
    """

    plan: CodingPlan
    tensors: Mapping[str, Tensor]
    positions: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_tensors(self.plan, self.tensors)
        object.__setattr__(self, "positions", positions_of(self.plan, self.tensors))

    @property
    def shape(self) -> tuple[int, int]:
        """(num_embeddings, embedding_dim)."""
        return self.plan.num_embeddings, self.plan.embedding_dim

    def decode(self, ids: Tensor) -> Tensor:
        """Decodes some rows.

        Args:
            ids: integer row ids of any shape, each in [0, num_embeddings).

        Returns:
            ids.shape + (d,) float32.

        Raises:
            TypeError: if the ids are not integers.
            IndexError: if an id is out of range.
        """
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"ids must be integers, got {ids.dtype}.")
        flat = ids.reshape(-1)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.plan.num_embeddings:
            raise IndexError(
                f"ids must be in [0, {self.plan.num_embeddings - 1}], got {int(flat.min())} to {int(flat.max())}."
            )
        rows = decode_positions(self.plan, self.tensors, self.positions[flat.long()].long())
        return rows.view(*ids.shape, self.plan.embedding_dim)

    def slots(self, ids: Tensor) -> Tensor:
        """Places of rows (n,) among the coded ones, int64, negative for exact rows."""
        return self.positions[ids.to(self.positions.device)].long() - self.plan.num_exact

    def decode_blocks(self, block_rows: int = DECODE_BLOCK_ROWS) -> Iterator[Tensor]:
        """Decodes the whole table in order of ids, (block_rows, d) float32 at a time."""
        for block in self.positions.split(block_rows):
            yield decode_positions(self.plan, self.tensors, block.long())

    def decode_all(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The whole dense table, (V, d), decoded in blocks."""
        dense = torch.empty(self.shape, dtype=dtype, device=self.positions.device)
        start = 0
        for block in self.decode_blocks():
            dense[start : start + block.shape[0]] = block
            start += block.shape[0]
        return dense

    def to(self, device: torch.device | str) -> "CompressedTable":
        """The same table on another device."""
        return CompressedTable(self.plan, {name: tensor.to(device) for name, tensor in self.tensors.items()})

    def digest(self) -> str:
        """SHA-256 over the names and bytes of the stored tensors, in order of names."""
        return digest_of(self.tensors)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in order of names, as "sha256:<hex>"."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return "sha256:" + sha.hexdigest()


def positions_of(plan: CodingPlan, tensors: Mapping[str, Tensor]) -> Tensor:
    """Where each row is stored, (V,) int32, from the stored tier index.

    Raises:
        ValueError: if the index is damaged or disagrees with the plan's counts.
    """
    if plan.max_depth == 0:
        device = next(iter(tensors.values())).device
        return torch.arange(plan.num_embeddings, dtype=torch.int32, device=device)
    index = tensors["tier_index"]
    depths = decode_depths(index, plan.num_embeddings, plan.max_depth)
    found = [int((depths >= depth).sum()) for depth in range(1, plan.max_depth + 1)]
    expected = [tier.coverage + plan.num_exact for tier in plan.tiers] + [plan.num_exact] * (plan.num_exact > 0)
    if found != expected:
        raise ValueError(f"tier_index covers {found} rows where the plan says {expected}: the index is damaged.")
    return storage_positions(depths).to(index.device)


def check_tensors(plan: CodingPlan, tensors: Mapping[str, Tensor]) -> None:
    """Checks names, dtypes and shapes against the plan.

    Raises:
        ValueError: naming every tensor that is missing, unknown or of the wrong dtype or shape.
    """
    specs = plan.tensor_specs()
    problems = [f"{name} is missing" for name in specs if name not in tensors]
    problems += [f"{name} is not part of the plan" for name in tensors if name not in specs]
    for name, spec in specs.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        same_kind = tensor.dtype == spec.dtype or (spec.dtype.is_floating_point and tensor.dtype.is_floating_point)
        if tuple(tensor.shape) != spec.shape or not same_kind:
            problems.append(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {spec.dtype} {spec.shape}")
    if problems:
        raise ValueError("the tensors do not match the coding plan: " + "; ".join(problems) + ".")
