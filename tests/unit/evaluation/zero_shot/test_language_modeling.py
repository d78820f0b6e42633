import math

import numpy as np
import pytest
import torch

from tests.tiny_models import ARCHITECTURES
from tests.unit.evaluation.zero_shot.word_tokenizer import NUM_WORDS, SPECIAL, word_tokenizer, words
from transformers_lighttoken.evaluation.zero_shot import language_modeling, perplexity, pseudo_perplexity

CAUSAL = ["llama", "gpt2"]


def text(count, seed=0):
    return words(*np.random.default_rng(seed).integers(0, NUM_WORDS, count))


def ids_of(text):
    return [int(word[1:]) + len(SPECIAL) for word in text.split()]


def loss_of(model, ids, position, target):
    """-log p(target) at a position, by NumPy, from one forward of one sequence."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, position].double().numpy()
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def causal_windows(model, ids, window, prefix):
    """Losses of each window, one forward per token."""
    step = window - len(prefix)
    losses = []
    for start in range(0, len(ids), step):
        part = prefix + ids[start : start + step]
        first = max(len(prefix), 1)
        losses.append([loss_of(model, part[:n], n - 1, part[n]) for n in range(first, len(part))])
    return [part for part in losses if part]


def check(result, losses):
    flat = np.concatenate(losses)
    assert result.n == len(flat)
    assert result.windows == len(losses)
    assert result.nll == pytest.approx(flat.mean(), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(flat.mean()), rel=1e-5)
    residuals = [sum(part) - flat.mean() * len(part) for part in losses]
    error = math.sqrt(np.square(residuals).sum() * len(losses) / (len(losses) - 1)) / len(flat)
    assert result.nll_standard_error == pytest.approx(error, rel=1e-4)
    assert result.standard_error == pytest.approx(result.perplexity * error, rel=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("count", [60, 61, 67])
def test_perplexity_agrees_with_one_token_at_a_time(name, count):
    model = ARCHITECTURES[name].build()
    content = text(count)
    result = perplexity(model, word_tokenizer(), content, window=12)
    check(result, causal_windows(model, ids_of(content), 12, []))


@pytest.mark.parametrize("count", [60, 67])
@pytest.mark.parametrize("prefix", ["[BOS]", "[EOS] [BOS]"])
def test_first_special_tokens_come_before_every_window(count, prefix):
    model = ARCHITECTURES["llama"].build()
    content = text(count)
    result = perplexity(model, word_tokenizer(f"{prefix} $A [EOS]"), content, window=12)
    check(result, causal_windows(model, ids_of(content), 12, [SPECIAL[token] for token in prefix.split()]))
    assert result.n == count


def test_only_the_first_tokens_are_used():
    model = ARCHITECTURES["llama"].build()
    content = text(60)
    first = " ".join(content.split()[:25])
    assert perplexity(model, word_tokenizer(), content, 10, max_tokens=25) == perplexity(
        model, word_tokenizer(), first, 10
    )


def test_small_chunks_change_nothing(monkeypatch):
    model = ARCHITECTURES["llama"].build()
    whole = perplexity(model, word_tokenizer(), text(60), window=20)
    monkeypatch.setattr(language_modeling, "_CHUNK_VALUES", 1)
    assert perplexity(model, word_tokenizer(), text(60), window=20) == whole


def test_losses_of_half_precision_logits_are_taken_in_float32():
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 10
    targets = torch.arange(50)
    exact = -torch.log_softmax(logits.double(), 1)[targets, targets]
    torch.testing.assert_close(language_modeling.token_losses(logits, targets), exact, rtol=1e-6, atol=1e-6)


def test_a_single_window_has_no_standard_error():
    result = perplexity(ARCHITECTURES["llama"].build(), word_tokenizer(), text(10), window=20)
    assert result.windows == 1
    assert math.isnan(result.nll_standard_error)
    assert math.isnan(result.standard_error)


def test_the_standard_error_is_that_of_repeated_draws():
    model = ARCHITECTURES["llama"].build()
    draws = [perplexity(model, word_tokenizer(), text(80, seed), window=8) for seed in range(40)]
    spread = np.std([draw.nll for draw in draws])
    assert np.mean([draw.nll_standard_error for draw in draws]) == pytest.approx(spread, rel=0.3)


def test_dropout_is_off_and_comes_back():
    model = ARCHITECTURES["gpt2"].build()
    expected = perplexity(model, word_tokenizer(), text(30), window=10)
    model.train()
    assert perplexity(model, word_tokenizer(), text(30), window=10) == expected
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("template", ["$A", "[BOS] $A [EOS]"])
@pytest.mark.parametrize(("every", "batch_size"), [(1, 4), (3, 16), (5, 1)])
def test_pseudo_perplexity_agrees_with_one_mask_at_a_time(template, every, batch_size):
    model = ARCHITECTURES["bert-mlm"].build()
    content = text(31)
    tokenizer = word_tokenizer(template, mask_token="[UNK]")
    result = pseudo_perplexity(model, tokenizer, content, 12, every=every, batch_size=batch_size)
    before, after = ([2], [3]) if "BOS" in template else ([], [])
    ids, step, losses = ids_of(content), 12 - len(before) - len(after), []
    for start in range(0, len(ids), step):
        losses.append([])
        for number in range(start, min(start + step, len(ids))):
            if number % every == 0:
                masked = [*ids[start:number], SPECIAL["[UNK]"], *ids[number + 1 : start + step]]
                sequence = before + masked + after
                losses[-1].append(loss_of(model, sequence, len(before) + number - start, ids[number]))
    check(result, [part for part in losses if part])


def test_pseudo_perplexity_needs_a_mask_token():
    with pytest.raises(ValueError, match="tokenizer has no mask token"):
        pseudo_perplexity(ARCHITECTURES["bert-mlm"].build(), word_tokenizer(), text(20), 10)


@pytest.mark.parametrize("argument", ["every", "batch_size"])
def test_pseudo_perplexity_refuses_zeros(argument):
    tokenizer = word_tokenizer(mask_token="[UNK]")
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        pseudo_perplexity(ARCHITECTURES["bert-mlm"].build(), tokenizer, text(20), 10, **{argument: 0})


@pytest.mark.parametrize("window", [1, 41])
def test_a_window_that_the_model_cannot_read_is_refused(window):
    with pytest.raises(ValueError, match=rf"window must be in \[2, 40\] for this model and tokenizer, got {window}"):
        perplexity(ARCHITECTURES["llama"].build(), word_tokenizer(), text(20), window)


def test_a_window_needs_room_for_the_special_tokens():
    with pytest.raises(ValueError, match=r"window must be in \[4, 40\] .* got 3"):
        pseudo_perplexity(
            ARCHITECTURES["bert-mlm"].build(), word_tokenizer("[BOS] $A [EOS]", mask_token="[UNK]"), text(20), 3
        )


@pytest.mark.parametrize("content", ["", "w1"])
def test_too_short_a_text_is_refused(content):
    with pytest.raises(ValueError, match=f"text must give at least 2 tokens, got {len(content.split())}"):
        perplexity(ARCHITECTURES["llama"].build(), word_tokenizer(), content, 10)


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="max_tokens must be at least 2 or None, got 1"):
        perplexity(ARCHITECTURES["llama"].build(), word_tokenizer(), text(20), 10, max_tokens=1)


def test_another_models_tokenizer_is_refused():
    with pytest.raises(ValueError, match="token id 403, but the model has 160 tokens"):
        perplexity(ARCHITECTURES["llama"].build(), word_tokenizer(num_words=500), words(1, 399, 2), 10)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(TypeError, match="BertModel gives no logits: load it with its language-modelling head"):
        pseudo_perplexity(ARCHITECTURES["bert"].build(), word_tokenizer(mask_token="[UNK]"), text(20), 10)
