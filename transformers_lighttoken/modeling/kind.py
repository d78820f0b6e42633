"""What an embedding module does beside looking up rows: its padding index, its scale, its class."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedEmbeddingError

_SCALED_SUFFIX = "ScaledWordEmbedding"


@dataclass(frozen=True)
class EmbeddingKind:
    """How rows become the output of the embedding module that a table replaces.

    Attributes:
        source_class: nn.Embedding or one of transformers' `*ScaledWordEmbedding` classes.
        padding_idx: the id whose row gets no gradient, or None.
        embed_scale: factor of the looked-up rows; 1 for nn.Embedding.
        rounds_scale: whether the factor is rounded to the rows' dtype first, as Gemma does.
    """

    source_class: type[nn.Embedding] = nn.Embedding
    padding_idx: int | None = None
    embed_scale: float = 1.0
    rounds_scale: bool = False

    @classmethod
    def of(cls, module: nn.Module, name: str = "") -> "EmbeddingKind":
        """Reads the kind of an embedding module.

        Args:
            module: to be replaced.
            name: of the module, for messages.

        Raises:
            UnsupportedEmbeddingError: if a compressed table could not take the module's place faithfully.
        """
        shown = f"{name!r} ({type(module).__name__})"
        scaled = type(module).__name__.endswith(_SCALED_SUFFIX) and type(module).__bases__ == (nn.Embedding,)
        if not isinstance(module, nn.Embedding) or not (type(module) is nn.Embedding or scaled):
            raise UnsupportedEmbeddingError(
                f"{shown} is not an embedding that LightToken knows: exactly nn.Embedding and transformers' "
                f"*{_SCALED_SUFFIX} classes can be compressed. Leave it dense with modules_to_not_convert=[{name!r}]."
            )
        for option in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, option):
                raise UnsupportedEmbeddingError(
                    f"{shown} uses {option}={getattr(module, option)!r}, which a compressed table does not support. "
                    f"Leave it dense with modules_to_not_convert=[{name!r}]."
                )
        if not scaled:
            return cls(padding_idx=module.padding_idx)
        rounds_scale = hasattr(module, "scalar_embed_scale")
        scale = module.scalar_embed_scale if rounds_scale else module.embed_scale
        if not isinstance(scale, (int, float)):
            raise UnsupportedEmbeddingError(f"{shown} has no plain number as its embed_scale, but {scale!r}.")
        return cls(type(module), module.padding_idx, float(scale), rounds_scale)

    def finish(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Stops the padding row's gradient and applies the scale.

        Args:
            rows: ids.shape + (d,) rows of the table.
            ids: integer ids of any shape.

        Returns:
            ids.shape + (d,), dtype of `rows`.
        """
        if self.padding_idx is not None and rows.requires_grad:
            rows = torch.where((ids == self.padding_idx).unsqueeze(-1), rows.detach(), rows)
        if self.embed_scale == 1.0:
            return rows
        if self.rounds_scale:
            return rows * torch.full((), self.embed_scale, dtype=rows.dtype, device=rows.device)
        return rows * self.embed_scale

    def resized(self, num_embeddings: int) -> "EmbeddingKind":
        """The kind after a change of size: as in transformers, a padding index that is cut off becomes None."""
        if self.padding_idx is not None and self.padding_idx >= num_embeddings:
            return replace(self, padding_idx=None)
        return self

    def dense_module(self, weight: nn.Parameter) -> nn.Embedding:
        """An ordinary embedding module of this kind over a dense (V, d) weight."""
        with torch.device("meta"):
            scale: dict[str, Any] = {} if self.source_class is nn.Embedding else {"embed_scale": self.embed_scale}
            module = self.source_class(weight.shape[0], weight.shape[1], self.padding_idx, **scale)
        module.weight = weight
        if self.rounds_scale:  # a buffer that is not stored
            module.embed_scale = torch.tensor(self.embed_scale, dtype=weight.dtype, device=weight.device)
        return module
