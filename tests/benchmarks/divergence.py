"""How far a language model's predictions are from another's: less noisy than perplexity on a few thousand tokens."""

from typing import Any

import torch

from transformers_lighttoken.evaluation.zero_shot.running import text_tokens
from transformers_lighttoken.modeling.distillation import divergence

_WINDOW = 512


@torch.no_grad()
def divergence_on(text: str, dense: Any, model: Any, tokenizer: Any, max_tokens: int) -> float:
    """Mean Kullback-Leibler divergence of a model's predictions from the dense model's, in nats a token of a text."""
    tokens = torch.tensor(text_tokens(dense, tokenizer, text, max_tokens), device=dense.device)
    windows = tokens.split(_WINDOW)
    found = [float(divergence(model, dense, {"input_ids": window.unsqueeze(0)})) for window in windows]
    return sum(len(window) * apart for window, apart in zip(windows, found, strict=True)) / len(tokens)
