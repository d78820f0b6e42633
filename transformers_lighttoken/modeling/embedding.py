"""LightTokenEmbedding: a compressed table in the place of nn.Embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..coding.decode import StoredTensors, decode_positions
from ..coding.plan import EXACT_DTYPES, CodingPlan
from ..coding.table import CompressedTable, positions_of
from .checkpoint import LATENTS, SENTINEL
from .errors import LightTokenCheckpointError
from .kind import EmbeddingKind
from .latents import TableLatents, complete_latents
from .lazy_weight import ReadsTable
from .logits import blocked_logits

Mode = Literal["embed", "rows", "logits"]
# On a CPU, finding the distinct ones among fewer ids than this costs more than decoding some twice.
DISTINCT_FROM = 256


class LightTokenEmbedding(ReadsTable):
    """Looks up rows of a compressed table; owns the stored tensors.

    The stored tensors are buffers by the names of `plan.tensor_specs()`, integers all, so that no cast of the model
    changes them. `exact_rows` is a parameter in the model's dtype, which is the dtype of the output. No decoded row
    outlives a call. `latents`, where there are any, are the float32 parameters that train in the place of the integers:
    rows are always those of their stored rounding.

    An empty tensor `weight` of shape (0,) joins them in the state dict. It makes a loader that does not know LightToken
    stop at a size mismatch, where it would otherwise start from random rows.

    Args:
        plan: what is stored.
        kind: padding index and scale of the module that this one replaces.
        dtype: of the exact rows and the output.
        device: of the tensors, which are left uninitialised.
    """

    exact_rows: nn.Parameter
    positions: Tensor
    latents: TableLatents | None

    def __init__(
        self,
        plan: CodingPlan,
        kind: EmbeddingKind | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind or EmbeddingKind()
        self.is_loading = False  # set while from_pretrained fills the tensors
        self._make_tensors(plan, dtype, device)
        self.latents = None

    @classmethod
    def from_table(
        cls,
        table: CompressedTable,
        kind: EmbeddingKind | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "LightTokenEmbedding":
        """Holds a finished table.

        Args:
            table: the table; its tensors are taken over, not copied, where dtype and device allow.
            kind: padding index and scale.
            dtype: of the exact rows and the output; as the table stores them when None.
            device: where to hold it; where the table is when None.
        """
        module = cls(table.plan, kind, dtype or table.tensors["exact_rows"].dtype, device="meta")
        module.load_table(table, device)
        return module

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.plan.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Columns of the table."""
        return self.plan.embedding_dim

    @property
    def padding_idx(self) -> int | None:
        """The id whose row gets no gradient."""
        return self.kind.padding_idx

    @property
    def embed_scale(self) -> float:
        """Factor of the looked-up rows."""
        return self.kind.embed_scale

    @property
    def owner(self) -> "LightTokenEmbedding":
        """Itself."""
        return self

    @property
    def table(self) -> CompressedTable:
        """The table as it is now, sharing memory with this module."""
        if self.latents is not None:
            self.latents.write_rounding(self._stored(), force=True)
        stored = {name: tensor.detach() for name, tensor in self._stored().items()}
        return CompressedTable(self.plan_with(self.exact_rows.dtype), stored)

    def plan_with(self, exact_dtype: torch.dtype) -> CodingPlan:
        """The coding plan with the dtype in which exact rows are held.

        Raises:
            ValueError: if exact rows cannot be stored in that dtype.
        """
        names = {dtype: name for name, dtype in EXACT_DTYPES.items()}
        if exact_dtype not in names:
            raise ValueError(
                f"exact rows are stored as one of {sorted(EXACT_DTYPES)}, the model's dtype is {exact_dtype}: "
                "cast the model first, for example with .float()."
            )
        return replace(self.plan, exact_dtype=names[exact_dtype])

    def forward(self, inputs: Tensor, mode: Mode = "embed") -> Tensor:
        """Looks up rows, or multiplies with the table.

        Args:
            inputs: integer ids of any shape; hidden states (..., d) for mode "logits".
            mode: "embed" is what the replaced module returned; "rows" leaves out its scale; "logits" is
                `inputs @ table.T`, computed in blocks of rows.

        Returns:
            inputs.shape + (d,), or (..., V) for "logits".

        Raises:
            IndexError: for an id that is negative or out of range (on a CPU, as nn.Embedding does).
        """
        if mode == "logits":
            return blocked_logits(self, inputs)
        rows = self._look_up(inputs)
        return self.kind.finish(rows, inputs) if mode == "embed" else rows

    def train_parts(self, parts: Sequence[str], requires_grad: bool = True) -> None:
        """Makes the parameters of what is to train; what does not train takes no memory for it.

        Args:
            parts: of "decoder" (those of tiers too), "low_rank", "row_scales" and "exact_rows".
            requires_grad: of their parameters, to begin with.
        """
        if self.latents is not None:
            self.latents.write_rounding(self._stored(), force=True)
        latents = TableLatents(self.plan, self._stored(), parts)
        self.latents = latents.requires_grad_(requires_grad) if latents.roundings else None
        self.exact_rows.requires_grad_(requires_grad and "exact_rows" in parts and self.plan.num_exact > 0)

    def tensors(self) -> StoredTensors:
        """What rows are decoded from: the stored tensors, or the values that they stand for where these train."""
        stored = self._stored()
        if self.latents is None:
            return stored
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and self.latents.trains):
            return {**stored, **self.latents.values(stored)}
        self.latents.write_rounding(stored)
        return stored

    def decode(self, positions: Tensor, tensors: StoredTensors | None = None) -> Tensor:
        """Decodes rows given by where they are stored.

        Args:
            positions: (n,) int64.
            tensors: what `tensors()` gives, where it is at hand.

        Returns:
            (n, d) in the dtype of the exact rows; decoded in float32, under autocast too.
        """
        rows = decode_positions(self.plan, self.tensors() if tensors is None else tensors, positions)
        return rows.to(self.exact_rows.dtype)

    def load_table(self, table: CompressedTable, device: torch.device | str | None = None) -> None:
        """Replaces the table, in the dtype that this module has.

        Args:
            table: of any size.
            device: where to hold it; where the table is when None.
        """
        dtype, requires_grad = self.exact_rows.dtype, self.exact_rows.requires_grad or self.plan.num_exact == 0
        latents, self.latents = self.latents, None
        for name in self.plan.tensor_specs():
            delattr(self, name)
        self.plan = table.plan
        self.kind = self.kind.resized(table.plan.num_embeddings)
        for name, tensor in table.tensors.items():
            if name != "exact_rows":
                self.register_buffer(name, tensor.to(device))
        exact_rows = table.tensors["exact_rows"].detach().to(device=device, dtype=dtype)
        self.exact_rows = nn.Parameter(exact_rows, requires_grad=requires_grad and exact_rows.numel() > 0)
        self.positions = table.positions.to(device)
        if latents is not None:
            self.latents = latents.renewed(self.plan, self._stored())

    def refresh_positions(self, tier_index: Tensor | None = None) -> None:
        """Derives where each row is stored; to be called when the tier index has been loaded.

        Args:
            tier_index: the index, where the module's own is offloaded.

        Raises:
            LightTokenCheckpointError: if the index is damaged.
        """
        if tier_index is None:
            tier_index = self._stored().get("tier_index", torch.empty(0, dtype=torch.uint8))
        device = self.exact_rows.device if self.positions.is_meta else self.positions.device
        try:
            self.positions = positions_of(self.plan, {"tier_index": tier_index.cpu()}).to(device)
        except ValueError as error:
            raise LightTokenCheckpointError(str(error)) from error

    def extra_repr(self) -> str:
        """What print(model) shows."""
        scale = f", embed_scale={self.embed_scale:g}" if self.embed_scale != 1 else ""
        padding = f", padding_idx={self.padding_idx}" if self.padding_idx is not None else ""
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, rank={self.plan.rank}, code_bits={self.plan.code_bits}, "
            f"num_exact={self.plan.num_exact}, ratio={self.plan.ratio:.1f}{padding}{scale}"
        )

    def _make_tensors(self, plan: CodingPlan, dtype: torch.dtype, device: torch.device | str | None) -> None:
        self.plan = plan
        for name, spec in plan.tensor_specs().items():
            if name != "exact_rows":
                self.register_buffer(name, torch.empty(spec.shape, dtype=spec.dtype, device=device))
        exact_rows = torch.empty(plan.num_exact, plan.embedding_dim, dtype=dtype, device=device)
        self.exact_rows = nn.Parameter(exact_rows, requires_grad=plan.num_exact > 0)
        positions = torch.empty(plan.num_embeddings, dtype=torch.int32, device=device)
        self.register_buffer("positions", positions, persistent=False)

    def _stored(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.plan.tensor_specs()}

    def _look_up(self, ids: Tensor) -> Tensor:
        positions = functional.embedding(ids, self.positions.unsqueeze(1))  # ids.shape + (1,), checks the range
        flat = positions.reshape(-1).long()
        if flat.is_cpu and flat.numel() >= DISTINCT_FROM and not torch.compiler.is_compiling():
            distinct, inverse = torch.unique(flat, return_inverse=True)
            rows = functional.embedding(inverse, self.decode(distinct))
        else:
            rows = self.decode(flat)
        return rows.view(*ids.shape, self.embedding_dim)

    def train(self, mode: bool = True) -> "LightTokenEmbedding":
        """As nn.Module.train; latents that were written past PyTorch's count of versions are rounded again."""
        if self.latents is not None:
            self.latents.forget_versions()
        return super().train(mode)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.latents is not None:
            self.latents.write_rounding(self._stored(), force=True)
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.is_loading:
            destination[prefix + SENTINEL] = torch.empty(0, dtype=self.exact_rows.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        sentinel = state_dict.pop(prefix + SENTINEL, None)
        if sentinel is not None and sentinel.numel():
            raise LightTokenCheckpointError(
                f"{prefix + SENTINEL} holds a dense table {tuple(sentinel.shape)}, but this model's table is "
                "compressed: load it into a dense model, then compress that."
            )
        if self.latents is None:
            for key in [key for key in state_dict if key.startswith(f"{prefix}{LATENTS}.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.latents is not None:
            complete_latents(self.latents, state_dict, prefix, self._stored())
        if prefix + "tier_index" in state_dict:
            self.refresh_positions()


def stored_tensors(state: Mapping[str, Tensor], plan: CodingPlan, name: str) -> dict[str, Tensor]:
    """The tensors of one table in a state dict, by their names in the plan.

    Raises:
        LightTokenCheckpointError: naming the tensors that are missing.
    """
    missing = [f"{name}.{tensor}" for tensor in plan.tensor_specs() if f"{name}.{tensor}" not in state]
    if missing:
        raise LightTokenCheckpointError(f"the state dict lacks {missing}, which the table {name!r} needs.")
    return {tensor: state[f"{name}.{tensor}"] for tensor in plan.tensor_specs()}
