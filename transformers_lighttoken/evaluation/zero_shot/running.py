"""Runs models for measurement: evaluation mode for a while, token ids that fit, windows of a text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...modeling.positions import longest_sequence


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; every module is as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def special_tokens_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def text_tokens(model: Any, tokenizer: Any, text: str, max_tokens: int | None) -> list[int]:
    """Token ids of a text without special tokens.

    Args:
        model: that will read them.
        tokenizer: of the model.
        text: any length.
        max_tokens: keep so many at most; None keeps all.

    Raises:
        ValueError: if the text gives fewer than 2 tokens, `max_tokens` is below 2, or the tokenizer is not the model's.
    """
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2 or None, got {max_tokens}.")
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens]
    if len(tokens) < 2:
        raise ValueError(f"text must give at least 2 tokens, got {len(tokens)} from {len(text)} characters.")
    check_token_ids(model, tokens)
    return tokens


def check_token_ids(model: Any, tokens: Sequence[int] | Tensor) -> None:
    """Refuses ids beyond the model's vocabulary.

    Raises:
        ValueError: if there are any: the tokenizer is another model's.
    """
    vocab_size = model.config.get_text_config().vocab_size
    largest = int(max(tokens) if isinstance(tokens, Sequence) else tokens.max())
    if largest >= vocab_size:
        raise ValueError(
            f"tokenizer gives token id {largest}, but the model has {vocab_size} tokens: use the model's own tokenizer."
        )


def check_window(model: Any, window: int, least: int) -> None:
    """Refuses windows that the model cannot read.

    Args:
        model: with its config.
        window: in tokens, special ones included.
        least: smallest window of use.

    Raises:
        ValueError: if the window is out of range.
    """
    most = longest_sequence(model)
    if window < least or (most is not None and window > most):
        limit = f"in [{least}, {most}]" if most is not None else f"at least {least}"
        raise ValueError(f"window must be {limit} for this model and tokenizer, got {window}.")
