"""Text to measure a model on: given, the model's own, or drawn from token frequencies. Beyond the paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .sensitivity import Batch

Source = Literal["text", "samples", "frequencies", "text and samples"]
SEQUENCE_TOKENS = 128
BATCH_SEQUENCES = 16
_SAMPLED_AT_ONCE = 64
_COUNTED_AT_ONCE = 1024
_MOST_COUNTED = 1_000_000
_LONGEST_PASSAGE, _PART_OF_LONG = 10_000, 1_000  # characters


@dataclass(frozen=True)
class Calibration:
    """Token sequences to measure on.

    Attributes:
        ids: (n, t) int64 token ids.
        mask: (n, t) int64, 1 for tokens and 0 for padding.
        source: where they come from: given text, the model's own samples, both, or draws from token frequencies.
    """

    ids: Tensor
    mask: Tensor
    source: Source

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Batches on a device, as transformers models take them."""
        for ids, mask in zip(self.ids.split(BATCH_SEQUENCES), self.mask.split(BATCH_SEQUENCES), strict=True):
            yield {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def within(self, length: int) -> "Calibration":
        """The same, cut to so many tokens a sequence."""
        return Calibration(self.ids[:, :length], self.mask[:, :length], self.source)

    def about(self, tokens: int) -> "Calibration":
        """The first sequences, of about so many tokens together."""
        before = self.mask.sum(dim=1).cumsum(0) - self.mask.sum(dim=1)
        count = int((before < tokens).sum())
        return Calibration(self.ids[:count], self.mask[:count], self.source)

    def joined(self, samples: "Calibration") -> "Calibration":
        """These sequences of given text, and samples of the model after them."""
        length = max(self.ids.shape[1], samples.ids.shape[1])
        ids, mask = (
            torch.cat([functional.pad(part, (0, length - part.shape[1])) for part in parts])
            for parts in ((self.ids, samples.ids), (self.mask, samples.mask))
        )
        return Calibration(ids, mask, "text and samples")


def from_text(text: str | Sequence[str], tokenizer: Any, max_tokens: int) -> Calibration:
    """Sequences of given text, spread evenly over it.

    Args:
        text: one string, its lines taken as passages, or a sequence of passages.
        tokenizer: of the model.
        max_tokens: about how many tokens to use.

    Raises:
        ValueError: if the text holds no passage, or no token of it is one that the tokenizer knows.
    """
    passages = _passages(text)
    if not passages:
        raise ValueError("calibration text is empty: give some lines of ordinary text, or leave `calibration` out.")
    length = min(SEQUENCE_TOKENS, getattr(tokenizer, "model_max_length", SEQUENCE_TOKENS))
    chosen, total = [], 0
    for start in _spread(len(passages)):
        ids = tokenizer(passages[start], truncation=True, max_length=length)["input_ids"]
        chosen.append(ids)
        total += len(ids)
        if total >= max_tokens:
            break
    if set().union(*chosen) <= set(tokenizer.all_special_ids):
        raise ValueError(
            "calibration text holds no token that the tokenizer knows: give some lines of ordinary text in a language "
            "of the model, or leave `calibration` out."
        )
    return _padded(chosen, "text")


def token_counts(text: str | Sequence[str], tokenizer: Any, vocab_size: int) -> Tensor:
    """How often each token occurs in a text, or in a million tokens spread over a longer one.

    Args:
        text: as for `from_text`.
        tokenizer: of the model.
        vocab_size: rows V of the table; other ids are left out.

    Returns:
        (V,) float64.
    """
    passages, counts = _passages(text), torch.zeros(vocab_size, dtype=torch.float64)
    order = list(_spread(len(passages)))
    for start in range(0, len(order), _COUNTED_AT_ONCE):
        chosen = [passages[number] for number in order[start : start + _COUNTED_AT_ONCE]]
        ids = torch.tensor([token for row in tokenizer(chosen)["input_ids"] for token in row], dtype=torch.long)
        counts += torch.bincount(ids[ids < vocab_size], minlength=vocab_size)
        if counts.sum() >= _MOST_COUNTED:
            break
    return counts


def from_samples(model: Any, max_tokens: int, seed: int, length: int = SEQUENCE_TOKENS) -> Calibration:
    """Sequences that a causal language model writes by itself.

    Args:
        model: with `generate`.
        max_tokens: about how many tokens.
        seed: of the sampling; the global generators are left as they were.
        length: tokens of a sequence.
    """
    device = model.get_input_embeddings().weight.device
    left = max(1, max_tokens // length)
    start = model.config.bos_token_id if model.config.bos_token_id is not None else 0
    devices = [device] if device.type == "cuda" else []
    written = []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        while left:
            prompt = torch.full((min(left, _SAMPLED_AT_ONCE), 1), start, dtype=torch.long, device=device)
            left -= len(prompt)
            ids = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=length - 1,
                min_new_tokens=length - 1,
                pad_token_id=start,
            )
            written.append(ids.cpu())
    ids = torch.cat(written)
    return Calibration(ids, torch.ones_like(ids), "samples")


def from_frequencies(
    frequencies: Tensor, tokenizer: Any, max_tokens: int, seed: int, length: int = SEQUENCE_TOKENS
) -> Calibration:
    """Sequences of independent draws from token frequencies, framed as the tokenizer frames a text.

    Args:
        frequencies: (V,) probabilities.
        tokenizer: of the model, for its special tokens; None for none.
        max_tokens: how many tokens.
        seed: of the draws.
        length: tokens of a sequence, special ones included.
    """
    generator = torch.Generator().manual_seed(seed)
    count = max(1, max_tokens // length)
    before, after = special_frame(tokenizer)
    inner = max(1, length - len(before) - len(after))
    cumulative = frequencies.double().cumsum(0)
    draws = torch.rand(count, inner, generator=generator, dtype=torch.float64) * cumulative[-1]
    drawn = torch.searchsorted(cumulative, draws).clamp(max=frequencies.numel() - 1)
    ids = torch.cat(
        [torch.tensor(before).expand(count, -1), drawn, torch.tensor(after).expand(count, -1)], dim=1
    ).long()
    return Calibration(ids, torch.ones_like(ids), "frequencies")


def special_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and after a text."""
    if tokenizer is None:
        return [], []
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    return [], []


def _passages(text: str | Sequence[str]) -> list[str]:
    lines = text.splitlines() if isinstance(text, str) else list(text)
    passages = [line for line in lines if line.strip()]
    return [part for passage in passages for part in _parts(passage)]


def _parts(passage: str) -> list[str]:
    """A passage, or parts of one that is so long that measuring on its start alone would leave most of it out."""
    parts, start = [], 0
    while len(passage) - start > _LONGEST_PASSAGE:
        space = passage.rfind(" ", start, start + _PART_OF_LONG)
        end = space if space > start else start + _PART_OF_LONG
        parts.append(passage[start:end])
        start = end
    return [*parts, passage[start:]]


def _spread(count: int) -> Iterator[int]:
    """All of range(count), each prefix spread over the whole: by the golden ratio, then what it left out."""
    step = max(1, int(count * 0.6180339887))
    seen: set[int] = set()
    for number in range(count):
        position = number * step % count
        if position not in seen:
            seen.add(position)
            yield position
    yield from (position for position in range(count) if position not in seen)


def _padded(sequences: list[list[int]], source: Source) -> Calibration:
    length = max(len(ids) for ids in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return Calibration(ids, mask, source)
