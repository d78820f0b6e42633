"""Modules that share a table with its owner: tied input embeddings and tied output heads. The table is stored once."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .embedding import LightTokenEmbedding
from .kind import EmbeddingKind
from .lazy_weight import ReadsTable


class _Sharing(ReadsTable):
    """Uses a table that another module owns; the owner is not registered as a submodule, so nothing is stored twice.

    The owner is called, never read directly, so that hooks on it (accelerate's offloading) take effect.
    """

    owner: LightTokenEmbedding

    def __init__(self, owner: LightTokenEmbedding) -> None:
        super().__init__()
        object.__setattr__(self, "owner", owner)  # past nn.Module, which would register it

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        if not memo:  # copied without the model that holds the table
            return self._copy_apart()
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__dict__, memo))
        return copied

    def _copy_apart(self) -> nn.Module:
        """What a copy of this module alone is, as PEFT makes one of each of `modules_to_save`."""
        raise TypeError(
            f"{type(self).__name__} uses the table of another module and cannot be copied, or trained, apart from it: "
            "copy the whole model, or name the module that owns the table."
        )


class LightTokenView(_Sharing):
    """An input embedding tied to another one, with a padding index and scale of its own.

    Args:
        owner: the module that owns the table.
        kind: padding index and scale of the module that this one replaces.
    """

    def __init__(self, owner: LightTokenEmbedding, kind: EmbeddingKind) -> None:
        super().__init__(owner)
        self.kind = kind

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.owner.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Columns of the table."""
        return self.owner.embedding_dim

    @property
    def padding_idx(self) -> int | None:
        """The id whose row gets no gradient."""
        return self.kind.resized(self.num_embeddings).padding_idx

    @property
    def embed_scale(self) -> float:
        """Factor of the looked-up rows."""
        return self.kind.embed_scale

    def forward(self, ids: Tensor) -> Tensor:
        """Looks up rows; ids.shape + (d,)."""
        return self.kind.resized(self.num_embeddings).finish(self.owner(ids, mode="rows"), ids)

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, tied"


class LightTokenHead(_Sharing):
    """An output head tied to the input table: logits = hidden @ table.T + bias.

    A copy without the model is an ordinary dense head, untied: a tie does not survive it in a dense model either.

    Args:
        owner: the module that owns the table.
        bias: (V,) of the head that this one replaces, or None.
    """

    bias: nn.Parameter | None

    def __init__(self, owner: LightTokenEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__(owner)
        self.register_parameter("bias", bias)

    @property
    def in_features(self) -> int:
        """Columns of the table."""
        return self.owner.embedding_dim

    @property
    def out_features(self) -> int:
        """Rows of the table."""
        return self.owner.num_embeddings

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states (..., d): (..., V), in the dtype that nn.Linear would return."""
        logits = self.owner(hidden, mode="logits").to(hidden.device)
        return logits if self.bias is None else logits + self.bias.to(logits.dtype)

    def dense_module(self, weight: nn.Parameter) -> nn.Linear:
        """An ordinary head over a dense (V, d) weight, with this head's bias."""
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=False)
        linear.weight = weight
        linear.register_parameter("bias", self.bias)
        return linear

    def _copy_apart(self) -> nn.Linear:
        return self.untied()

    def untied(self) -> nn.Linear:
        """An ordinary head with a dense copy of the table, and of the bias."""
        dense = self.dense_module(nn.Parameter(self.owner.table.decode_all(self.owner.exact_rows.dtype)))
        dense.register_parameter("bias", copy.deepcopy(self.bias))
        return dense

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, tied"
