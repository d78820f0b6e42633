import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.tiny_models import ARCHITECTURES
from tests.unit.evaluation.zero_shot.word_tokenizer import NUM_WORDS, word_tokenizer, words
from transformers_lighttoken.evaluation.zero_shot import sts_spearman
from transformers_lighttoken.evaluation.zero_shot.similarity import embed_sentences


@pytest.fixture(scope="module")
def model():
    return ARCHITECTURES["bert"].build()


def sentence(random):
    return words(*random.integers(0, NUM_WORDS, random.integers(1, 12)))


def pairs(count=40, seed=0):
    random = np.random.default_rng(seed)
    return [
        {"sentence1": sentence(random), "sentence2": sentence(random), "label": float(random.integers(0, 6))}
        for _ in range(count)
    ]


def plain_embedding(model, tokenizer, text):
    """One sentence alone: nothing is padded, so the mean is over all positions."""
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0).numpy()


def plain_spearman(model, tokenizer, rows):
    similarities = []
    for row in rows:
        a, b = (plain_embedding(model, tokenizer, row[name]) for name in ("sentence1", "sentence2"))
        similarities.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return stats.spearmanr(similarities, [row["label"] for row in rows]).statistic  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_it_agrees_with_one_sentence_at_a_time(model, batch_size):
    tokenizer, rows = word_tokenizer("[BOS] $A [EOS]"), pairs()
    result = sts_spearman(model, tokenizer, rows, batch_size)
    assert result.spearman == pytest.approx(plain_spearman(model, tokenizer, rows), abs=1e-9)
    assert result.n == 40


def test_the_standard_error_is_bonett_and_wrights(model):
    result = sts_spearman(model, word_tokenizer(), pairs())
    rho = result.spearman
    assert result.standard_error == pytest.approx((1 - rho**2) * math.sqrt((1 + rho**2 / 2) / 37), rel=1e-12)


def test_the_standard_error_is_that_of_repeated_draws(model):
    draws = [sts_spearman(model, word_tokenizer(), pairs(30, seed)) for seed in range(60)]
    spread = np.std([draw.spearman for draw in draws])
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(spread, rel=0.3)


def test_gold_scores_of_the_models_own_similarities_give_one(model):
    tokenizer, rows = word_tokenizer(), pairs()
    first = embed_sentences(model, tokenizer, [row["sentence1"] for row in rows])
    second = embed_sentences(model, tokenizer, [row["sentence2"] for row in rows])
    gold = torch.nn.functional.cosine_similarity(first.double(), second.double())
    own = [row | {"label": float(score)} for row, score in zip(rows, gold, strict=True)]
    assert sts_spearman(model, tokenizer, own).spearman == pytest.approx(1)


def test_long_sentences_are_cut_to_what_the_model_takes(model):
    tokenizer = word_tokenizer()
    short, long = words(*range(36)), words(*range(90))
    embeddings = embed_sentences(model, tokenizer, [short, long])
    torch.testing.assert_close(embeddings[0], embeddings[1])


def test_the_model_is_as_it_was(model):
    model.train()
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    result = sts_spearman(model, word_tokenizer(), pairs())
    assert [module.training for module in model.modules()] == before
    model.eval()
    assert sts_spearman(model, word_tokenizer(), pairs()) == result


def test_a_model_that_finds_all_pairs_alike_has_no_correlation():
    constant = ARCHITECTURES["bert"].build()
    torch.nn.init.zeros_(constant.encoder.layer[0].output.LayerNorm.weight)
    torch.nn.init.ones_(constant.encoder.layer[0].output.LayerNorm.bias)
    assert sts_spearman(constant, word_tokenizer(), pairs()).spearman == 0


def test_half_precision(model):
    low = ARCHITECTURES["bert"].build().to(torch.bfloat16)
    assert sts_spearman(low, word_tokenizer(), pairs()).spearman == pytest.approx(
        sts_spearman(model, word_tokenizer(), pairs()).spearman, abs=0.1
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pairs(3), "rows must be at least 4 sentence pairs, got 3"),
        ([{"sentence1": "w1", "label": 1}] * 5, "row 0 lacks 'sentence2'"),
        ([row | {"label": 2} for row in pairs(5)], "rows all have the label 2"),
    ],
)
def test_useless_rows_are_refused(model, rows, message):
    with pytest.raises(ValueError, match=message):
        sts_spearman(model, word_tokenizer(), rows)


def test_another_models_tokenizer_is_refused(model):
    tokenizer = word_tokenizer(num_words=500)
    rows = [row | {"sentence1": words(450)} for row in pairs(5)]
    with pytest.raises(ValueError, match="token id 454, but the model has 160 tokens: use the model's own tokenizer"):
        sts_spearman(model, tokenizer, rows)


def test_a_tokenizer_without_padding_is_refused(model):
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer has no padding token"):
        sts_spearman(model, tokenizer, pairs())


def test_a_model_with_a_head_is_refused():
    with pytest.raises(TypeError, match="BertForMaskedLM gives no last_hidden_state: load it with AutoModel"):
        sts_spearman(ARCHITECTURES["bert-mlm"].build(), word_tokenizer(), pairs())


def test_a_damaged_model_is_refused():
    damaged = ARCHITECTURES["bert"].build()
    torch.nn.init.constant_(damaged.get_input_embeddings().weight, math.nan)
    with pytest.raises(ValueError, match="embeddings that are not finite"):
        sts_spearman(damaged, word_tokenizer(), pairs())


def test_an_empty_batch_is_refused(model):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sts_spearman(model, word_tokenizer(), pairs(), 0)
