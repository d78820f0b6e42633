"""SQuAD: questions and contexts cut into overlapping windows, and answers put together from the windows' logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_QUESTION_TOKENS = 64
N_BEST = 20
MAX_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class Window:
    """A part of a context behind its question.

    Attributes:
        row: number of the question.
        offsets: for each token of the window its characters in the context; None outside the context.
    """

    row: int
    offsets: tuple[tuple[int, int] | None, ...]


def cut_windows(
    tokenizer: Any, rows: Mapping[str, Sequence[Any]], max_length: int, stride: int
) -> tuple[list[dict[str, list[int]]], list[Window]]:
    """Tokenizes questions and contexts; a context that is too long gives several windows.

    Args:
        tokenizer: a fast one, which knows offsets.
        rows: columns `question` and `context`; questions are cut to 64 tokens, as BERT's own script does.
        max_length: tokens of a window, the question included.
        stride: tokens that neighbouring windows share.

    Returns:
        The model's inputs and where they come from, window by window.

    Raises:
        ValueError: if the tokenizer is a slow one, or a question leaves no room for its context.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {type(tokenizer).__name__} is a slow one, without offsets; SQuAD needs them.")
    questions, longest = _shortened(tokenizer, [str(question).strip() for question in rows["question"]])
    least = longest + tokenizer.num_special_tokens_to_add(pair=True) + stride + 1
    if least > max_length:
        raise ValueError(
            f"max_length {max_length} leaves no room: the longest question has {longest} tokens, and windows share "
            f"{stride}. Raise max_length to at least {least}, or lower stride."
        )
    encoded = tokenizer(
        questions,
        list(rows["context"]),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    features, windows = [], []
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        of_context = [part == 1 for part in encoded.sequence_ids(number)]
        offsets = zip(encoded["offset_mapping"][number], of_context, strict=True)
        windows.append(Window(row, tuple(tuple(span) if inside else None for span, inside in offsets)))
        features.append({name: encoded[name][number] for name in names})
    return features, windows


def answer_positions(window: Window, start: int, end: int) -> tuple[int, int]:
    """First and last token of an answer in a window; (0, 0), the first token of all, if it does not lie in it whole.

    Args:
        window: of the answer's context.
        start: first character of the answer.
        end: the character after it.
    """
    inside = [
        token for token, span in enumerate(window.offsets) if span and span[0] < end and span[1] > start != span[1]
    ]
    if not inside:
        return 0, 0
    first, last = window.offsets[inside[0]], window.offsets[inside[-1]]
    whole = first is not None and last is not None and first[0] <= start and last[1] >= end
    return (inside[0], inside[-1]) if whole else (0, 0)


def best_answers(
    windows: Sequence[Window], start_logits: np.ndarray, end_logits: np.ndarray, contexts: Sequence[str]
) -> list[str]:
    """The best span of each context over all of its windows, by the sum of its start and end logit.

    The 20 best starts and ends of a window are paired, and spans are at most 30 tokens, as in transformers' example.

    Args:
        windows: in the order of the logits.
        start_logits: (windows, length) floating-point; columns beyond a window's tokens are left aside.
        end_logits: of the same shape.
        contexts: by number of the question.

    Returns:
        One text a context; empty where no span is possible.
    """
    best = [(-np.inf, "")] * len(contexts)
    for window, starts, ends in zip(windows, start_logits, end_logits, strict=True):
        score, span = _best_span(window, starts, ends)
        if span is not None and score > best[window.row][0]:
            best[window.row] = (score, contexts[window.row][span[0] : span[1]])
    return [text for _, text in best]


def _shortened(tokenizer: Any, questions: list[str]) -> tuple[list[str], int]:
    """The questions with as many tokens as are read, and the most that one of them has."""
    encoded = tokenizer(
        questions, add_special_tokens=False, truncation=True, max_length=MAX_QUESTION_TOKENS,
        return_offsets_mapping=True, return_attention_mask=False,
    )  # fmt: skip
    spans = encoded["offset_mapping"]
    cut = [question[: span[-1][1]] if span else "" for question, span in zip(questions, spans, strict=True)]
    return cut, max(map(len, spans), default=0)


def _best_span(window: Window, starts: np.ndarray, ends: np.ndarray) -> tuple[float, tuple[int, int] | None]:
    """The best span of one window, in characters, and its score."""
    allowed = [token for token, span in enumerate(window.offsets) if span is not None]
    found, best = None, -np.inf
    for first in _largest(starts, allowed):
        for last in _largest(ends, allowed):
            score = float(starts[first]) + float(ends[last])
            if first <= last < first + MAX_ANSWER_TOKENS and score > best:
                begin, end = window.offsets[first], window.offsets[last]
                found, best = (begin[0], end[1]) if begin and end else None, score
    return best, found


def _largest(logits: np.ndarray, allowed: Sequence[int]) -> list[int]:
    return sorted(allowed, key=lambda token: (-float(logits[token]), token))[:N_BEST]
