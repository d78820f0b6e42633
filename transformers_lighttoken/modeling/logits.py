"""Hidden states times a compressed table, without the dense table: blocks of rows, decoded one after the other."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..coding.decode import DECODE_BLOCK_ROWS, StoredTensors

if TYPE_CHECKING:
    from .embedding import LightTokenEmbedding


def blocked_logits(owner: "LightTokenEmbedding", hidden: Tensor) -> Tensor:
    """`hidden @ table.T`, holding one decoded block of rows at a time, in the backward pass too.

    Args:
        owner: the module that owns the table.
        hidden: (..., d).

    Returns:
        (..., V), in the dtype that nn.Linear with a dense weight would return, under autocast too.
    """
    blocks, tensors = owner.positions.split(DECODE_BLOCK_ROWS), owner.tensors()
    if torch.is_grad_enabled() and (hidden.requires_grad or any(part.requires_grad for part in owner.parameters())):
        return torch.cat([_recomputed_logits(owner, hidden, block, tensors) for block in blocks], dim=-1)
    if torch.compiler.is_compiling() or len(blocks) == 1:
        return torch.cat([_block_logits(owner, hidden, block, tensors) for block in blocks], dim=-1)
    logits, start = None, 0
    for block in blocks:
        part = _block_logits(owner, hidden, block, tensors)
        if logits is None:
            logits = part.new_empty(*part.shape[:-1], owner.num_embeddings)
        logits[..., start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return logits if logits is not None else hidden.new_empty(*hidden.shape[:-1], 0)


def _recomputed_logits(
    owner: "LightTokenEmbedding", hidden: Tensor, positions: Tensor, tensors: StoredTensors
) -> Tensor:
    """As `_block_logits`, but decodes again in the backward pass instead of keeping the rows."""
    return checkpoint(_block_logits, owner, hidden, positions, tensors, use_reentrant=False, preserve_rng_state=False)


def _block_logits(owner: "LightTokenEmbedding", hidden: Tensor, positions: Tensor, tensors: StoredTensors) -> Tensor:
    return functional.linear(hidden, owner.decode(positions.long(), tensors))  # (..., rows of the block)
