import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from transformers_lighttoken.modeling import sensitivity
from transformers_lighttoken.modeling.sensitivity import blend, input_metric, output_statistics

DIM, VOCAB = 16, 60


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    return BertModel(config).eval()


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def batch(rows=3, length=5, seed=0):
    ids = torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_projections_converge_to_the_mean_of_the_jacobians():
    model, sample = bert(), batch()
    embedding = model.get_input_embeddings()
    mask = sample["attention_mask"]

    def output(rows):
        hidden = model(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        return hidden[mask.bool()].flatten()

    rows = embedding(sample["input_ids"]).detach()
    jacobian = torch.as_tensor(torch.autograd.functional.jacobian(output, rows))  # (outputs, b, t, d)
    jacobian = jacobian[:, mask.bool()]  # (outputs, tokens, d)
    expected = torch.einsum("oti,otj->ij", jacobian, jacobian)
    expected = expected * (DIM / expected.trace())
    found = input_metric(model, [embedding], [sample], projections=3000)
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_long_gradients_count_as_the_root_mean_square_of_their_batch(monkeypatch):
    def project(output, mask, _generator):
        return (output.last_hidden_state[..., 0].square() * mask).sum()

    monkeypatch.setattr(sensitivity, "_project", project)
    model, samples = bert(), [batch(seed=1), batch(rows=2, seed=2)]
    embedding, expected = model.get_input_embeddings(), np.zeros((DIM, DIM))
    for sample in samples:
        mask = sample["attention_mask"]
        rows = embedding(sample["input_ids"]).detach().requires_grad_(True)
        output = model(inputs_embeds=rows, attention_mask=mask)
        (gradient,) = torch.autograd.grad(project(output, mask, None), rows)
        gradients = gradient[mask.bool()].double().numpy()  # (n, d)
        lengths = np.linalg.norm(gradients, axis=1)
        limit = np.sqrt(np.mean(lengths**2))
        assert 1.1 * limit < lengths.max() < 4 * limit
        for row, length in zip(gradients, lengths, strict=True):
            expected += np.outer(row, row) * min(1, limit / length) ** 2
    found = input_metric(model, [embedding], samples, projections=1)
    np.testing.assert_allclose(found.numpy(), expected * DIM / np.trace(expected), rtol=1e-3, atol=1e-4)


def test_the_fisher_information_of_a_language_model():
    """The oracle sums over all classes with their probabilities instead of sampling."""
    model, sample = llama(), batch(rows=1)
    sample["attention_mask"][:] = 1
    embedding = model.get_input_embeddings()
    rows = embedding(sample["input_ids"]).detach().requires_grad_(True)
    logits = model(inputs_embeds=rows).logits[0].float()
    position = 3
    expected = torch.zeros(DIM, DIM)
    for token in range(VOCAB):
        probability = logits[position].softmax(-1)[token].detach()
        (gradient,) = torch.autograd.grad(logits[position].log_softmax(-1)[token], rows, retain_graph=True)
        expected += probability * gradient[0].t() @ gradient[0]
    trace_of_one_position = float(expected.trace())
    found = input_metric(model, [embedding], [sample], projections=200)
    assert float(found.trace()) == pytest.approx(DIM)
    assert trace_of_one_position > 0
    overlap = (found * expected).sum() / (found.norm() * expected.norm())
    assert float(overlap) > 0.5


def test_the_head_moments_are_those_of_unmasked_hidden_states():
    model, sample = llama(), batch()
    hidden = model.model(**sample).last_hidden_state[sample["attention_mask"].bool()].detach()
    expected = hidden.t() @ hidden
    expected = expected * (DIM / expected.trace())
    found = output_statistics(model, model.lm_head, [sample, sample])
    assert found.metric is not None
    torch.testing.assert_close(found.metric, expected, atol=1e-4, rtol=1e-3)
    of_one_state = [{name: it[:1, :1] for name, it in sample.items()}]
    assert output_statistics(model, model.lm_head, of_one_state).covariance is None
    assert output_statistics(model, None, [sample]).metric is None
    expected = np.cov(hidden.double().numpy(), rowvar=False)
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance, expected * (DIM / np.trace(expected)), atol=1e-3)


def test_measuring_leaves_the_model_as_it_was():
    model = llama().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    input_metric(model, [model.get_input_embeddings()], [batch()])
    output_statistics(model, model.lm_head, [batch()])
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not model.get_input_embeddings()._forward_hooks
    assert not model.lm_head._forward_pre_hooks


def test_an_embedding_that_plays_no_part_is_refused():
    model = bert()
    with pytest.raises(ValueError, match="output does not depend on the token embedding"):
        input_metric(model, [nn.Embedding(3, DIM)], [batch()])


def test_the_same_seed_gives_the_same_metric():
    model = bert()
    first, again, other = (
        input_metric(model, [model.get_input_embeddings()], [batch()], seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_blend_is_the_square_root_of_the_weighted_sum():
    metric = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    found = blend([(0.25, None), (0.75, metric)], 3)
    expected = torch.tensor([2.5, 1.0, 0.25]).sqrt()
    torch.testing.assert_close(found, torch.diag(expected * 3 / expected.sum()))


def test_the_mean_prediction_is_the_mean_of_the_softmax_over_tokens_that_are_no_padding():
    model, batches = llama(), [batch(), batch(seed=1)]
    expected = torch.zeros(VOCAB, dtype=torch.float64)
    for sample in batches:
        with torch.no_grad():
            logits = model(**sample).logits
        for row, length in enumerate((3, 5, 5)):
            for token in range(length):
                expected += logits[row, token].double().softmax(0) / 26
    for head in (None, model.lm_head):
        found = output_statistics(model, head, batches).unigram
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    assert output_statistics(bert(), None, batches).unigram is None
