"""How far a language model's predictions are from another's: less noisy than perplexity on a few thousand tokens."""

from typing import Any

import torch

_WINDOW = 512


@torch.no_grad()
def divergence(dense: Any, model: Any, tokenizer: Any, text: str, max_tokens: int) -> float:
    """Mean Kullback-Leibler divergence of a model's predictions from the dense model's, in nats a token."""
    ids = tokenizer(text[: 20 * max_tokens], return_tensors="pt")["input_ids"][0, :max_tokens].to(dense.device)
    total = 0.0
    for window in ids.split(_WINDOW):
        wanted, found = (
            part(input_ids=window.unsqueeze(0)).logits[0].float().log_softmax(dim=-1) for part in (dense, model)
        )
        total += float((wanted.exp() * (wanted - found)).sum(dtype=torch.float64))
    return total / len(ids)
