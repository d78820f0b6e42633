"""Which tokens are stored exactly."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from transformers_lighttoken.modeling.tokens import exact_token_ids


def tokenizer_with(tokens: list[str], special: list[str] | None = None, **named: Any) -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "hello": 3, "[unused1]": 4, "[MASK]": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_tokens([AddedToken(token) for token in tokens])
    tokenizer.add_special_tokens(special or [])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


NAMED: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "[MASK]"}


def test_named_tokens_come_first_then_special_then_added_ones() -> None:
    tokenizer = tokenizer_with(["<tool>", "<answer>"], ["<|im_start|>"], extra_special_tokens=["<|im_start|>"], **NAMED)
    assert exact_token_ids(tokenizer, 100) == [0, 1, 2, 5, 8, 6, 7]


@pytest.mark.parametrize(
    "pattern", ["[unused{}]", "<unused{}>", "<|reserved_special_token_{}|>", "madeupword000{}", "<|dummy_{}|>"]
)
def test_placeholders_are_left_out(pattern: str) -> None:
    tokens = [pattern.format(number) for number in range(2, 5)]
    assert exact_token_ids(tokenizer_with([*tokens, "<tool>"], tokens, **NAMED), 100) == [0, 1, 2, 5, 9]


@pytest.mark.parametrize("pattern", ["<extra_id_{}>", "<loc{:04d}>", "<|{}.00|>"])
def test_long_numbered_ranges_are_left_out_and_short_ones_kept(pattern: str) -> None:
    long = tokenizer_with([pattern.format(number) for number in range(40)], **NAMED)
    assert exact_token_ids(long, 100) == [0, 1, 2, 5]
    short = tokenizer_with([pattern.format(number) for number in range(3)], **NAMED)
    assert exact_token_ids(short, 100) == [0, 1, 2, 5, 6, 7, 8]


def test_a_named_token_is_kept_whatever_its_name() -> None:
    tokenizer = tokenizer_with(["<|reserved_special_token_0|>"], pad_token="<|reserved_special_token_0|>", **NAMED)
    assert exact_token_ids(tokenizer, 100) == [0, 1, 6, 2, 5]


def test_ids_beyond_the_table_are_left_out() -> None:
    tokenizer = tokenizer_with(["<tool>", "<answer>"], **NAMED)
    assert exact_token_ids(tokenizer, 7) == [0, 1, 2, 5, 6]
    assert exact_token_ids(tokenizer, 2) == [0, 1]
