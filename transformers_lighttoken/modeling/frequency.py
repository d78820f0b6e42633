"""How often a tokenizer's tokens occur, from the tokenizer alone. Beyond the paper.

Training orders the tokens of WordPiece and BPE vocabularies by frequency, and Unigram vocabularies carry
log-probabilities. Ranks become probabilities by the law of Zipf and Mandelbrot, p ~ 1 / (rank + 2.7).
"""

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from .tokens import is_placeholder

_ZIPF_OFFSET = 2.7
# Log-probability of tokens that a Unigram vocabulary does not score.
_UNKNOWN_SCORE = -100.0
# SentencePiece scores 0 what it does not estimate: control symbols, which no text is segmented into, and what users
# define, punctuation mostly, which it is.
_CONTROL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORD_MARKS = ("##", "\u2581", "\u0120", "</w>", "@@")
# Characters of the alphabet come first in a vocabulary, in order of code points, not of frequency. Those outside ASCII
# are moved back by this share of the vocabulary, unless the vocabulary is written in them.
_ALPHABET_DELAY = 0.25
_FOREIGN_SHARE = 0.2


def token_frequencies(tokenizer: Any, vocab_size: int) -> Tensor:
    """Estimated probability of each token.

    Args:
        tokenizer: of the model, slow or fast.
        vocab_size: rows V of the table; rows past the tokenizer's vocabulary are never met.

    Returns:
        (V,) float64 with sum 1. Unused, reserved and byte tokens come last.
    """
    texts: dict[int, str] = {index: text for text, index in tokenizer.get_vocab().items() if index < vocab_size}
    scores, special = _unigram_scores(tokenizer), set(getattr(tokenizer, "all_special_ids", ()))
    keys = torch.full((vocab_size,), float("inf"), dtype=torch.float64)
    delay = _alphabet_delay(texts, vocab_size)
    for index, text in texts.items():
        score = None if scores is None else scores.get(text, _UNKNOWN_SCORE)
        unscored = score is not None and score >= 0
        control = unscored and (index in special or _CONTROL.fullmatch(text))
        if control or is_placeholder(text) or _BYTE_TOKEN.fullmatch(text):
            keys[index] = 2.0 * vocab_size + index
        elif score is not None:
            keys[index] = math.log(len(texts)) if unscored else -score
        else:
            keys[index] = index + (delay if _is_foreign_character(text) else 0.0)
    if scores is not None:
        return _from_scores(keys, vocab_size)
    ranks = torch.empty(vocab_size, dtype=torch.float64)
    ranks[torch.argsort(keys, stable=True)] = torch.arange(vocab_size, dtype=torch.float64)
    probabilities = 1.0 / (ranks + _ZIPF_OFFSET)
    probabilities[torch.isinf(keys)] = 0.0
    return probabilities / probabilities.sum()


def text_frequencies(counts: Tensor, prior: Tensor, share: float = 0.5) -> Tensor:
    """Token probabilities from a text and from what is known without it.

    Where the compressed model meets just such text this costs at most -log(share) nats a token of cross-entropy; where
    it meets other text, whose frequent tokens may be rare in this one, the prior knows of them.

    Args:
        counts: (V,) of the tokens in the text; the prior stays where all are 0.
        prior: (V,) probabilities: the model's own unigram, or those of `token_frequencies`.
        share: of the text.

    Returns:
        (V,) float64 with sum 1.
    """
    if not bool(counts.any()):
        return prior.double() / prior.sum()
    return share * counts.double() / counts.sum() + (1 - share) * prior


def _unigram_scores(tokenizer: Any) -> dict[str, float] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    model = json.loads(backend.to_str())["model"]
    if model.get("type") != "Unigram":
        return None
    return {text: float(score) for text, score in model["vocab"]}


def _from_scores(keys: Tensor, vocab_size: int) -> Tensor:
    """Probabilities exp(score); what has no score of its own gets a share of the least."""
    scored = keys < 2.0 * vocab_size
    probabilities = torch.where(scored, torch.exp(-keys), 0.0)
    least = probabilities[probabilities > 0].min() if bool(scored.any()) else torch.tensor(1.0, dtype=torch.float64)
    probabilities = torch.where(scored, probabilities, 0.1 * least)
    probabilities[torch.isinf(keys)] = 0.0
    return probabilities / probabilities.sum()


def _bare(text: str) -> str:
    for mark in _WORD_MARKS:
        text = text.removeprefix(mark).removesuffix(mark)
    return text


def _is_foreign_character(text: str) -> bool:
    bare = _bare(text)
    return len(bare) == 1 and ord(bare) > 127


def _alphabet_delay(texts: dict[int, str], vocab_size: int) -> float:
    foreign = sum(1 for text in texts.values() if _is_foreign_character(text))
    return 0.0 if foreign > _FOREIGN_SHARE * max(1, len(texts)) else _ALPHABET_DELAY * vocab_size
