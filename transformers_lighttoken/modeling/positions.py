"""How many tokens a model reads at a time."""

from typing import Any

from torch import nn


def longest_sequence(model: nn.Module) -> int | None:
    """Positions that a model has for tokens; None where it has no limit, or its config does not say.

    RoBERTa and its like count positions from their padding index on, so that the first rows of their position
    embeddings are not for tokens.

    Args:
        model: a transformers model; the meta device will do.
    """
    config: Any = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet says -1
        return None
    offsets = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
        and module.num_embeddings == positions
    ]
    return positions - max(offsets, default=0)


def longest_input(model: nn.Module, tokenizer: Any) -> int | None:
    """Tokens that model and tokenizer take at most, special ones included; None where neither says."""
    limits = (tokenizer.model_max_length, longest_sequence(model))
    known = [limit for limit in limits if limit is not None and limit < 2**30]
    return min(known) if known else None
