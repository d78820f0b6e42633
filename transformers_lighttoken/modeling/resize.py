"""Changing the number of tokens of a compressed model: new ones are exact rows, initialised as transformers does."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..coding.resize import append_exact_rows, keep_first_rows
from .embedding import LightTokenEmbedding
from .head import LightTokenHead


def resize_owner(
    model: PreTrainedModel,
    owner: LightTokenEmbedding,
    num_tokens: int | None,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
) -> None:
    """Grows or shrinks a compressed table in place.

    Args:
        model: whose initialisation new rows get.
        owner: of the table.
        num_tokens: rows to have; the present number when None.
        pad_to_multiple_of: rounds the number up.
        mean_resizing: draws new rows from the normal distribution of the old ones, else from the model's own; the
            former decodes the table for the moment.

    Raises:
        ValueError: if a number is not a positive integer.
    """
    old = owner.num_embeddings
    new = _target(old, num_tokens, pad_to_multiple_of)
    if new > old:
        owner.load_table(append_exact_rows(owner.table, _new_rows(model, owner, new - old, mean_resizing)))
    elif new < old:
        owner.load_table(keep_first_rows(owner.table, new))


def resize_head(model: Any, head: LightTokenHead, mean_resizing: bool = True) -> None:
    """Gives a tied head's bias the size of the table, which has been resized already."""
    if head.bias is None or head.bias.shape[0] == head.out_features:
        return
    old, new = head.bias.shape[0], head.out_features
    resized = nn.Linear(1, new, device=head.bias.device, dtype=head.bias.dtype)
    with torch.no_grad():
        if new > old and mean_resizing:
            model._init_added_lm_head_bias_with_mean(head, resized, new - old)
        elif new > old:
            model._init_weights(resized)
        resized.bias[: min(old, new)] = head.bias[: min(old, new)]
    head.bias = nn.Parameter(resized.bias.detach(), requires_grad=head.bias.requires_grad)


def _target(old: int, num_tokens: int | None, multiple: int | None) -> int:
    for name, value in (("new_num_tokens", num_tokens), ("pad_to_multiple_of", multiple)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    target = old if num_tokens is None else num_tokens
    return target if multiple is None else -(-target // multiple) * multiple


def _new_rows(model: Any, owner: LightTokenEmbedding, count: int, mean_resizing: bool) -> torch.Tensor:
    rows = nn.Embedding(count, owner.embedding_dim, device=owner.exact_rows.device, dtype=owner.exact_rows.dtype)
    with torch.no_grad():
        if mean_resizing:
            model._init_added_embeddings_weights_with_mean(owner, rows, owner.num_embeddings, count)
        else:
            model._init_weights(rows)
    return rows.weight.detach()
