"""Which tokens of a tokenizer are stored exactly: those that every text needs, not the placeholders."""

import re
from collections import Counter
from typing import Any

# Tokens kept free for later use: "[unused12]", "<|reserved_special_token_7|>", "madeupword0003".
_PLACEHOLDER = re.compile(r"unused|reserved|placeholder|dummy|madeupword", re.IGNORECASE)
# More numbered tokens of one pattern than this are a range ("<extra_id_3>", "<loc0012>"), not tokens of their own.
_FLOOD = 16


def is_placeholder(token: str) -> bool:
    """Whether a token is kept free for later use, by its text."""
    return bool(_PLACEHOLDER.search(token))


def exact_token_ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """The ids of tokens to store exactly, the most important first.

    Special and added tokens, except those that are unused, reserved, or one of a numbered range: Gemma has thousands.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        vocab_size: rows of the table; ids beyond it are left out.

    Returns:
        Distinct ids in [0, vocab_size): named special tokens (begin, end, padding, unknown, class, separator, mask) in
        this order, then other special tokens, then added ones, each by id.
    """
    named = [
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
    ]
    special = sorted(tokenizer.all_special_ids)
    added = sorted(tokenizer.get_added_vocab().values())
    others = _without_placeholders(dict.fromkeys([*special, *added]), tokenizer)
    ids = [token_id for token_id in named if token_id is not None] + others
    return [token_id for token_id in dict.fromkeys(ids) if 0 <= token_id < vocab_size]


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Checks that a tokenizer can be the one of a table.

    For a checkpoint without a tokenizer's files, transformers makes an empty tokenizer of the model's kind, whose
    special tokens have ids of their own.

    Args:
        tokenizer: a transformers tokenizer.
        vocab_size: rows of the table.

    Raises:
        ValueError: if the tokenizer knows fewer than half as many tokens as the table has rows.
    """
    if 2 * len(tokenizer) < vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the table {vocab_size} rows: it is empty or another model's."
        )


def _without_placeholders(ids: dict[int, None], tokenizer: Any) -> list[int]:
    tokens = dict(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True))
    patterns = {token_id: re.sub(r"\d+", "#", str(token)) for token_id, token in tokens.items()}
    counts = Counter(pattern for pattern in patterns.values() if "#" in pattern)
    return [
        token_id
        for token_id, token in tokens.items()
        if not is_placeholder(str(token)) and counts[patterns[token_id]] <= _FLOOD
    ]
