"""Where a model is sensitive to errors of its table: d x d metrics measured on a little text. Beyond the paper.

The input metric is the mean of J^T J, J the Jacobian of the model's output with respect to a token's embedding, by
random projections through autograd. For a language model it is the Fisher information E[g g^T], g the gradient of the
log-probability of a token drawn from the model's own prediction. A few gradients are many times longer than the others,
so that the metric of one text is unlike that of another: those longer than the root mean square of their batch count as
if they had that length. The head's metric is the second moment of the hidden states that reach the head. Both are means
over tokens, scaled to trace d, so that they blend with the identity.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PROJECTIONS = 4
_LEAST_VARIANCE = 1e-5
"""Of hidden states, as a share of their second moment, which is summed in float32."""

Batch = dict[str, Tensor]


def input_metric(
    model: nn.Module,
    embeddings: Sequence[nn.Module],
    batches: Iterable[Batch],
    projections: int = _PROJECTIONS,
    seed: int = 0,
) -> Tensor:
    """Mean of J^T J over the tokens of some text, long gradients shortened to the root mean square of their batch.

    Args:
        model: a transformers model; put into eval mode for the measurement and back after it.
        embeddings: the modules whose outputs are token embeddings: the table's owner and those tied to it.
        batches: `input_ids` and `attention_mask`, (b, t) each, on the model's device.
        projections: random projections per batch.
        seed: of the projections.

    Returns:
        (d, d) float32, trace d.

    Raises:
        ValueError: if no batch holds a token, or the model's output does not depend on the embedding.
    """
    total = _Sum()
    with _evaluating(model), _frozen(model):
        for number, batch in enumerate(batches):
            generator = torch.Generator(batch["input_ids"].device).manual_seed((seed * 1_000_003 + number) % 2**63)
            with torch.enable_grad(), _captured_outputs(embeddings) as captured:
                output = _output(model, batch)
            if not captured:
                break
            mask = batch["attention_mask"].unsqueeze(-1)
            for projection in range(projections):
                scalar = _project(output, batch["attention_mask"], generator)
                last = projection == projections - 1
                gradients = torch.autograd.grad(scalar, captured, retain_graph=not last, allow_unused=True)
                for gradient in gradients:
                    if gradient is not None:
                        rows = (gradient * mask if gradient.shape[:2] == mask.shape[:2] else gradient).flatten(0, -2)
                        total.add(_shortened_moment(rows[rows.count_nonzero(dim=1) > 0].float()))
    return _unit_trace(total.total, "the model's output does not depend on the token embedding")


def _shortened_moment(gradients: Tensor) -> Tensor:
    """Sum of g g^T over gradients (n, d) float32 that are not zero, none longer than their root mean square."""
    lengths = torch.linalg.vector_norm(gradients, dim=1)  # (n,)
    limit = lengths.cpu().double().square().mean().sqrt().to(lengths)
    shortened = gradients * (limit / lengths).clamp(max=1).unsqueeze(1)
    return shortened.t() @ shortened


@dataclass(frozen=True)
class OutputStatistics:
    """What a language model's output layer met and said over some text.

    Attributes:
        unigram: (V,) float64 with sum 1 on the CPU, the mean of the distributions predicted; None if the model gives no
            logits for each token.
        metric: (d, d) float32, second moment of the hidden states that reached the head, trace d; None without a head.
        covariance: the same of these less their mean; None too where all states are the same.
    """

    unigram: Tensor | None
    metric: Tensor | None = None
    covariance: Tensor | None = None


def output_statistics(model: nn.Module, head: nn.Module | None, batches: Iterable[Batch]) -> OutputStatistics:
    """Predictions and hidden states of a language model, in one pass over some text.

    Args:
        model: a transformers model.
        head: its output head, called with hidden states (b, t, d), where these are wanted.
        batches: `input_ids` and `attention_mask`, (b, t) each.

    Raises:
        ValueError: if no hidden state reached the head.
    """
    unigram, moments = _Sum(), _Moments()
    seen: list[Tensor] = []
    handle = None if head is None else head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with _evaluating(model), torch.no_grad():
            for batch in batches:
                logits, mask = getattr(_output(model, batch), "logits", None), batch["attention_mask"]
                if logits is not None and logits.dim() == 3 and logits.shape[:2] == mask.shape:
                    unigram.add(logits[mask.bool()].float().softmax(dim=-1).sum(dim=0, dtype=torch.float64))
                for hidden in seen:
                    moments.add(hidden[mask.bool()] if hidden.shape[:2] == mask.shape else hidden.flatten(0, -2))
                seen.clear()
    finally:
        if handle is not None:
            handle.remove()
    predicted = None if unigram.total is None else unigram.total / unigram.total.sum()
    if head is None:
        return OutputStatistics(predicted)
    return OutputStatistics(predicted, *moments.of_unit_trace("no hidden state reached the output head"))


class _Sum:
    """A sum of tensors, in float64 on the CPU; None before the first."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, part: Tensor) -> None:
        part = part.cpu().double()
        self.total = part if self.total is None else self.total + part


class _Moments:
    """First and second moments of vectors."""

    def __init__(self) -> None:
        self._squares, self._sums, self._count = _Sum(), _Sum(), 0

    def add(self, rows: Tensor) -> None:
        """Adds vectors, (n, d)."""
        rows = rows.float()
        self._squares.add(rows.t() @ rows)
        self._sums.add(rows.double().sum(dim=0))
        self._count += len(rows)

    def of_unit_trace(self, problem: str) -> tuple[Tensor, Tensor | None]:
        """Second moment and covariance."""
        squares, sums = self._squares.total, self._sums.total
        metric = _unit_trace(squares, problem)
        if squares is None or sums is None:
            return metric, None
        covariance = squares - sums.outer(sums) / self._count
        if float(covariance.trace()) <= _LEAST_VARIANCE * float(squares.trace()):
            return metric, None
        return metric, _unit_trace(covariance, problem)


def blend(parts: Iterable[tuple[float, Tensor | None]], dim: int, power: float = 0.5) -> Tensor:
    """A power of a weighted sum of metrics of trace d, scaled to trace d again.

    A power below 1 tempers the metric: measured on a little text it may overstate how much directions differ, and the
    plain error then grows more than the model gains.

    Args:
        parts: share and metric of each part; None is the identity.
        dim: d.
        power: in (0, 1].

    Returns:
        (d, d) float32, trace d.
    """
    total = torch.zeros(dim, dim, dtype=torch.float64)
    for share, metric in parts:
        if share:
            total += share * (torch.eye(dim, dtype=torch.float64) if metric is None else metric.double().cpu())
    values, vectors = torch.linalg.eigh(total)
    tempered = (vectors * values.clamp(min=0).pow(power)) @ vectors.t()
    return (tempered * (dim / tempered.trace())).float()


def _unit_trace(total: Tensor | None, problem: str) -> Tensor:
    if total is None or not bool(torch.isfinite(total).all()) or float(total.trace()) <= 0:
        raise ValueError(f"no metric could be measured: {problem}. Compress with the plain metric instead.")
    return (total * (total.shape[0] / total.trace())).float()


def _output(model: Any, batch: Batch) -> Any:
    inputs = dict(batch)
    if getattr(model.config, "is_encoder_decoder", False):
        inputs |= {"decoder_input_ids": batch["input_ids"], "decoder_attention_mask": batch["attention_mask"]}
    return model(**inputs, return_dict=True)


def _project(output: Any, mask: Tensor, generator: torch.Generator) -> Tensor:
    """A random scalar of the output whose gradient's second moment is J^T J, or the Fisher information."""
    logits = getattr(output, "logits", None)
    if logits is not None and logits.dim() == 3 and logits.shape[:2] == mask.shape:
        return _sampled_log_likelihood(logits, mask, generator)
    hidden = logits if logits is not None else output.last_hidden_state
    direction = torch.randn(hidden.shape, generator=generator, device=hidden.device)
    if hidden.dim() == 3 and hidden.shape[:2] == mask.shape:
        direction = direction * mask.unsqueeze(-1)
    return (hidden.float() * direction).sum()


def _sampled_log_likelihood(logits: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    flat = logits[mask.bool()].float()  # (n, classes)
    log_probabilities = flat.log_softmax(dim=-1)
    noise = (
        torch.rand(flat.shape, generator=generator, device=flat.device).clamp_(min=1e-20).log_().neg_().log_().neg_()
    )
    drawn = (flat.detach() + noise).argmax(dim=-1)  # Gumbel-max sampling
    return log_probabilities.gather(1, drawn.unsqueeze(1)).sum()


@contextmanager
def _captured_outputs(embeddings: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Makes the embeddings' outputs leaves that take gradients, and collects them."""
    leaves: list[Tensor] = []

    def to_leaf(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    handles = [embedding.register_forward_hook(to_leaf) for embedding in embeddings]
    try:
        yield leaves
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes gradients for the while: they would cost memory and time."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
