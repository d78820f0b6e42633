"""Perplexity of causal language models and pseudo-perplexity of masked ones, on raw text."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .running import check_window, evaluation_mode, special_tokens_around, text_tokens

_CHUNK_VALUES = 2**24
"""Logits that are turned into float32 log-probabilities at a time (64 MiB)."""


@dataclass(frozen=True)
class PerplexityResult:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of `nll`.
        standard_error: of the perplexity, perplexity * nll_standard_error; NaN for a single window.
        nll: mean negative log-likelihood per predicted token, in nats.
        nll_standard_error: of `nll`, windows taken as independent draws; NaN for a single window.
        n: predicted tokens.
        windows: of text.
    """

    perplexity: float
    standard_error: float
    nll: float
    nll_standard_error: float
    n: int
    windows: int


def perplexity(
    model: Any, tokenizer: Any, text: str, window: int = 512, max_tokens: int | None = None
) -> PerplexityResult:
    """Perplexity over windows of a text that do not overlap.

    Every token of a window but the first is predicted. A tokenizer that starts texts with a special token (Gemma,
    Llama 2) puts it before every window, and the first token is then predicted too.

    Args:
        model: a transformers causal language model.
        tokenizer: of the model.
        text: raw text.
        window: tokens that the model reads at a time.
        max_tokens: use only the first so many tokens of the text.

    Raises:
        ValueError: if the text is too short, the window out of range, or the tokenizer another model's.
        TypeError: if the model gives no logits.
    """
    prefix, _ = special_tokens_around(tokenizer)
    check_window(model, window, len(prefix) + 2)
    tokens = text_tokens(model, tokenizer, text, max_tokens)
    length = window - len(prefix)
    with evaluation_mode(model):
        losses = [
            _causal_losses(model, prefix, tokens[start : start + length]) for start in range(0, len(tokens), length)
        ]
    return _summarize(losses)


def pseudo_perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    window: int = 128,
    max_tokens: int | None = None,
    every: int = 8,
    batch_size: int = 16,
) -> PerplexityResult:
    """Pseudo-perplexity of Salazar et al. 2020: tokens are masked one at a time and predicted from all others.

    Args:
        model: a transformers masked language model.
        tokenizer: of the model.
        text: raw text.
        window: tokens that the model reads at a time, special ones included.
        max_tokens: use only the first so many tokens of the text.
        every: mask each n-th token of the text; 1 masks all, as the paper does.
        batch_size: copies of a window that are read together, each with one token masked.

    Raises:
        ValueError: if the tokenizer has no mask token or is another model's, or an argument is out of range.
        TypeError: if the model gives no logits.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("tokenizer has no mask token: pseudo_perplexity is for masked language models.")
    for name, value in (("every", every), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    prefix, suffix = special_tokens_around(tokenizer)
    check_window(model, window, len(prefix) + len(suffix) + 2)
    tokens = text_tokens(model, tokenizer, text, max_tokens)
    length = window - len(prefix) - len(suffix)
    losses = []
    with evaluation_mode(model):
        for start in range(0, len(tokens), length):
            part = tokens[start : start + length]
            positions = torch.arange(-start % every, len(part), every) + len(prefix)
            ids = torch.tensor(prefix + part + suffix)
            losses.append(_masked_losses(model, ids, positions, tokenizer.mask_token_id, batch_size))
    return _summarize(losses)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihoods in float32, a few rows of logits at a time so that memory is bounded.

    Args:
        logits: (n, V) floating-point.
        targets: (n,) int64.

    Returns:
        (n,) float64, in nats.
    """
    rows = max(1, _CHUNK_VALUES // logits.shape[1])
    parts = [
        -torch.log_softmax(chunk.float(), dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
        for chunk, target in zip(logits.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat(parts).double()


def _causal_losses(model: Any, prefix: list[int], part: list[int]) -> Tensor:
    ids = torch.tensor([prefix + part], device=model.device)  # (1, length)
    if ids.shape[1] < 2:
        return torch.zeros(0, dtype=torch.float64)
    logits = _logits(model, input_ids=ids, use_cache=False)[0]  # (length, V)
    first = max(len(prefix), 1)
    return token_losses(logits[first - 1 : -1], ids[0, first:]).cpu()


def _masked_losses(model: Any, ids: Tensor, positions: Tensor, mask_token: int, batch_size: int) -> Tensor:
    losses = [torch.zeros(0, dtype=torch.float64)]
    for masked in positions.split(batch_size):
        copies = torch.arange(len(masked))
        batch = ids.repeat(len(masked), 1)  # (n, length)
        batch[copies, masked] = mask_token
        logits = _logits(model, input_ids=batch.to(model.device))  # (n, length, V)
        chosen = logits[copies.to(logits.device), masked.to(logits.device)]  # (n, V)
        losses.append(token_losses(chosen, ids[masked].to(logits.device)).cpu())
    return torch.cat(losses)


def _logits(model: Any, **inputs: Any) -> Tensor:
    logits = getattr(model(**inputs), "logits", None)
    if logits is None:
        raise TypeError(f"model {type(model).__name__} gives no logits: load it with its language-modelling head.")
    return logits


def _summarize(losses: list[Tensor]) -> PerplexityResult:
    """Mean over tokens, and its standard error as a ratio of sums over windows (Cochran 1977, 6.3)."""
    losses = [part for part in losses if len(part)]
    sums = torch.stack([part.sum() for part in losses])  # (windows,)
    counts = torch.tensor([len(part) for part in losses], dtype=torch.float64)
    n, windows = int(counts.sum()), len(losses)
    nll = float(sums.sum()) / n
    spread = float((sums - nll * counts).square().sum())
    error = math.sqrt(spread * windows / (windows - 1)) / n if windows > 1 else math.nan
    value = math.exp(nll) if nll < 709 else math.inf
    return PerplexityResult(value, value * error, nll, error, n, windows)
