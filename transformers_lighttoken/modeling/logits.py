"""Hidden states times a compressed table, without the dense table: blocks of rows, one after the other."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..coding.decode import DECODE_BLOCK_ROWS
from ..coding.product import TableProduct

if TYPE_CHECKING:
    from .embedding import LightTokenEmbedding

Columns = Callable[[Tensor], Tensor]
_MOST_BLOCKS = 4


def blocked_logits(owner: "LightTokenEmbedding", hidden: Tensor) -> Tensor:
    """`hidden @ table.T`, holding what one block of rows needs at a time, in the backward pass too.

    On a CPU the products are computed in float32 from the codes, without the rows (`coding.product`). Decoded rows are
    used elsewhere, while a graph is traced, and in training on more states than a row has columns: decoding is cheap
    beside these.

    Args:
        owner: the module that owns the table.
        hidden: (..., d).

    Returns:
        (..., V), in the dtype that nn.Linear with a dense weight would return, under autocast too.
    """
    states, tensors = hidden.reshape(-1, hidden.shape[-1]), owner.tensors()
    few = len(states) <= owner.embedding_dim or not _trains(owner, states)
    if states.is_cpu and states.numel() and few and not torch.compiler.is_compiling():
        # What nn.Linear would return, or why it refuses these states.
        dtype = functional.linear(states[:0], owner.exact_rows.new_empty(1, owner.embedding_dim)).dtype
        with torch.autocast("cpu", enabled=False):
            product = TableProduct(owner.plan, tensors, states.float())
            logits = _joined(
                owner,
                owner.positions.split(_rows_at_once(*states.shape)),
                _recomputed(product.columns) if product.keeps_products else product.columns,
                dtype,
            )
    else:
        blocks = owner.positions.split(DECODE_BLOCK_ROWS)
        logits = _joined(
            owner, blocks, _recomputed(lambda block: functional.linear(states, owner.decode(block, tensors)))
        )
    return logits.view(*hidden.shape[:-1], owner.num_embeddings)


def _rows_at_once(num_states: int, embedding_dim: int) -> int:
    """About as many rows as take no more memory for their products than a block of decoded rows."""
    rows = DECODE_BLOCK_ROWS * embedding_dim // num_states
    return max(DECODE_BLOCK_ROWS // 8, min(rows, DECODE_BLOCK_ROWS * _MOST_BLOCKS))


def _trains(owner: "LightTokenEmbedding", states: Tensor) -> bool:
    return torch.is_grad_enabled() and (states.requires_grad or any(it.requires_grad for it in owner.parameters()))


def _joined(
    owner: "LightTokenEmbedding", blocks: Sequence[Tensor], columns: Columns, dtype: torch.dtype | None = None
) -> Tensor:
    """The logits (n, V), in a dtype or as they come, of blocks of positions, each (n, rows of the block)."""
    first = columns(blocks[0].long()).to(dtype=dtype)
    if first.requires_grad or torch.compiler.is_compiling() or len(blocks) == 1:
        return torch.cat([first, *(columns(block.long()).to(dtype=dtype) for block in blocks[1:])], dim=-1)
    logits = first.new_empty(first.shape[0], owner.num_embeddings)
    logits[:, : first.shape[1]] = first
    start = first.shape[1]
    for block in blocks[1:]:
        part = columns(block.long())
        logits[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return logits


def _recomputed(columns: Columns) -> Columns:
    """Computes a block again in the backward pass instead of keeping what it is made of."""

    def columns_of(block: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return columns(block)
        return checkpoint(columns, block, use_reentrant=False, preserve_rng_state=False)

    return columns_of
