"""A tokenizer of the words w0, w1, ... for the tiny models: ids 0 to 3 are special, word number n has id n + 4."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import VOCAB

SPECIAL = {"[UNK]": 0, "[PAD]": 1, "[BOS]": 2, "[EOS]": 3}
NUM_WORDS = VOCAB - len(SPECIAL)


def word_tokenizer(template: str = "$A", num_words: int = NUM_WORDS, **named: str) -> PreTrainedTokenizerFast:
    """`template` says which special tokens go around a text, such as "[BOS] $A [EOS]"."""
    vocabulary = SPECIAL | {f"w{number}": number + len(SPECIAL) for number in range(num_words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(SPECIAL.items()))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]"} | named
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=36, **names)


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)
