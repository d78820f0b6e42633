"""Semantic textual similarity of a sentence encoder as it is, without fine-tuning."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...modeling.positions import longest_input
from ...optional import import_optional
from .running import check_token_ids, evaluation_mode

_COLUMNS = ("sentence1", "sentence2", "label")
_FEWEST_ROWS = 4


@dataclass(frozen=True)
class SimilarityResult:
    """Rank correlation of a model's similarities with people's.

    Attributes:
        spearman: rho, in [-1, 1]; 0 if the model finds all pairs equally similar.
        standard_error: of rho, by Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright 2000.
        n: sentence pairs.
    """

    spearman: float
    standard_error: float
    n: int


def sts_spearman(
    model: Any, tokenizer: Any, rows: Iterable[Mapping[str, Any]], batch_size: int = 64
) -> SimilarityResult:
    """Spearman correlation of cosine similarities with the gold scores of sentence pairs.

    A sentence's embedding is the mean of the last hidden states over the attention mask.

    Args:
        model: a transformers encoder, whose output has `last_hidden_state`.
        tokenizer: of the model.
        rows: with `sentence1`, `sentence2` and `label`, as in STS-B.
        batch_size: sentences that are encoded together.

    Raises:
        ValueError: if rows lack a column, are fewer than 4, have one and the same label, or the tokenizer or the
            model's embeddings are of no use.
        TypeError: if the model gives no hidden states.
        ImportError: if scipy is not installed.
    """
    return spearman_of(partial(embed_sentences, model, tokenizer, batch_size=batch_size), rows)


def spearman_of(encode: Callable[[list[str]], Tensor], rows: Iterable[Mapping[str, Any]]) -> SimilarityResult:
    """The same for any encoder.

    Args:
        encode: from sentences to (n, d) embeddings.
        rows: with `sentence1`, `sentence2` and `label`, as in STS-B.

    Raises:
        ValueError: if the rows or the embeddings are of no use.
        ImportError: if scipy is not installed.
    """
    first, second, labels = _columns(rows)
    stats = import_optional("scipy.stats", "Spearman correlation")
    embeddings = encode(first + second).cpu()  # (2 n, d)
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("model gives embeddings that are not finite: it is damaged.")
    similarities = F.cosine_similarity(embeddings[: len(labels)].double(), embeddings[len(labels) :].double())  # (n,)
    if float(similarities.min()) == float(similarities.max()):
        return SimilarityResult(0.0, _spearman_error(0.0, len(labels)), len(labels))
    rho = float(stats.spearmanr(similarities.numpy(), labels).statistic)
    return SimilarityResult(rho, _spearman_error(rho, len(labels)), len(labels))


def embed_sentences(model: Any, tokenizer: Any, sentences: list[str], batch_size: int = 64) -> Tensor:
    """Mean-pooled embeddings.

    Args:
        model: a transformers encoder.
        tokenizer: of the model.
        sentences: any number; long ones are cut to what model and tokenizer take.
        batch_size: sentences that are encoded together, of similar lengths.

    Returns:
        (len(sentences), d) float32 on the CPU.

    Raises:
        ValueError: if `batch_size` is not positive, or the tokenizer has no padding token or is another model's.
        TypeError: if the model gives no hidden states.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer has no padding token: set tokenizer.pad_token.")
    max_length = longest_input(model, tokenizer)
    order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
    pooled: list[Tensor] = []
    with evaluation_mode(model):
        for start in range(0, len(order), batch_size):
            batch = [sentences[number] for number in order[start : start + batch_size]]
            encoded = tokenizer(
                batch, padding=True, truncation=max_length is not None, max_length=max_length, return_tensors="pt"
            )
            pooled.append(_mean_pool(model, encoded))
    return torch.cat(pooled)[torch.tensor(order).argsort()]


def _mean_pool(model: Any, batch: Any) -> Tensor:
    check_token_ids(model, batch["input_ids"])
    inputs = {key: values.to(model.device) for key, values in batch.items()}
    hidden = getattr(model(**inputs), "last_hidden_state", None)  # (n, length, d)
    if hidden is None:
        raise TypeError(f"model {type(model).__name__} gives no last_hidden_state: load it with AutoModel.")
    mask = inputs["attention_mask"].unsqueeze(2).float()  # (n, length, 1)
    return ((hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).cpu()


def _columns(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str], list[float]]:
    rows = list(rows)
    if len(rows) < _FEWEST_ROWS:
        raise ValueError(f"rows must be at least {_FEWEST_ROWS} sentence pairs, got {len(rows)}.")
    for number, row in enumerate(rows):
        missing = [name for name in _COLUMNS if name not in row]
        if missing:
            raise ValueError(f"rows must have the columns {', '.join(_COLUMNS)}; row {number} lacks {missing[0]!r}.")
    first, second = ([str(row[name]) for row in rows] for name in _COLUMNS[:2])
    labels = [float(row["label"]) for row in rows]
    if min(labels) == max(labels):
        raise ValueError(f"rows all have the label {labels[0]:g}: a correlation needs labels that differ.")
    return first, second, labels


def _spearman_error(rho: float, n: int) -> float:
    return (1 - rho**2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
